package nitro

import "github.com/fxamacker/cbor/v2"

// strict reads requests: nothing twice, nothing deep, nothing left over.
func strict() (cbor.DecMode, error) {
	return cbor.DecOptions{
		DupMapKey:        cbor.DupMapKeyEnforcedAPF,
		MaxNestedLevels:  4,
		MaxArrayElements: 4096, // serde writes bytes that nobody marked as such in this way
		MaxMapPairs:      16,
		TagsMd:           cbor.TagsForbidden,
	}.DecMode()
}

// parseRequest splits a request into the command's name and its encoded fields,
// nil for a command without any. The error is a codeError.
func parseRequest(request []byte) (name string, body []byte, err error) {
	mode, err := strict()
	if err != nil {
		return "", nil, err
	}
	if len(request) == 0 {
		return "", nil, refuse(codeInvalidOperation)
	}
	switch request[0] >> 5 {
	case majorText:
		if mode.Unmarshal(request, &name) != nil {
			return "", nil, refuse(codeInvalidOperation)
		}
		return name, nil, nil
	case majorMap:
		var m map[string]cbor.RawMessage
		if mode.Unmarshal(request, &m) != nil || len(m) != 1 {
			return "", nil, refuse(codeInvalidOperation)
		}
		for name, body = range m {
			// The fields are read twice, once here for their form.
			var fields map[string]cbor.RawMessage
			if len(body) == 0 || body[0]>>5 != majorMap || mode.Unmarshal(body, &fields) != nil {
				return "", nil, refuse(codeInvalidOperation)
			}
		}
		return name, body, nil
	default:
		return "", nil, refuse(codeInvalidOperation)
	}
}

// index reads the register that a command names.
func index(body []byte) (int, error) {
	var r struct {
		Index *uint16 `cbor:"index"`
	}
	if err := cbor.Unmarshal(body, &r); err != nil || r.Index == nil {
		return 0, refuse(codeInvalidOperation)
	}
	if *r.Index >= maxPCRs {
		return 0, refuse(codeInvalidIndex)
	}
	return int(*r.Index), nil
}

// respond encodes {name: body}.
func respond(name string, body []byte) []byte {
	return cborMap(pair{cborText(name), body})
}
