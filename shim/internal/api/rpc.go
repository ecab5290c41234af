package api

// RPCRequest is ttrpc's Request, in the parts that a shim looks at.
type RPCRequest struct {
	Service     string       `pb:"1"`
	Method      string       `pb:"2"`
	Payload     []byte       `pb:"3"`
	TimeoutNano int64        `pb:"4"`
	Metadata    []*RPCHeader `pb:"5"`
}

// RPCHeader is ttrpc's KeyValue.
type RPCHeader struct {
	Key   string `pb:"1"`
	Value string `pb:"2"`
}

// RPCResponse is ttrpc's Response.
type RPCResponse struct {
	Status  *RPCStatus `pb:"1"`
	Payload []byte     `pb:"2"`
}

// RPCStatus is google.rpc.Status.
type RPCStatus struct {
	Code    int32  `pb:"1"`
	Message string `pb:"2"`
	Details []*Any `pb:"3"`
}
