package stdio

func loggerMain([]string) int { return 0 }
