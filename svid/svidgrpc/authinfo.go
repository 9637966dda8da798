package svidgrpc

import (
	"crypto/tls"
	"errors"
	"fmt"
	"reflect"

	"google.golang.org/grpc/credentials"

	"github.com/assay-project/assay/attest"
)

var errClient = errors.New("svidgrpc: these are a client's credentials")

// maxWrapped is how many credentials may lie around those that speak TLS.
const maxWrapped = 8

// stateOf is the TLS connection that a peer is on, nil where there is none. Other
// credentials lie around TLS and wrap what it says of the peer, as go-spiffe's do.
// What they embed under its own name is looked for; whatever hides it is refused: a
// certificate that nobody sees is not the same as none. Check:
//
//	transport  Internal: the connection's credentials show the TLS below them
func stateOf(info credentials.AuthInfo) (*tls.ConnectionState, error) {
	for range maxWrapped {
		switch i := info.(type) {
		case nil:
			return nil, nil
		case credentials.TLSInfo:
			return &i.State, nil
		case *credentials.TLSInfo:
			if i == nil {
				return nil, nil
			}
			return &i.State, nil
		}
		inner, ok := embedded(info)
		if !ok {
			break
		}
		info = inner
	}
	if v := reflect.ValueOf(info); v.IsValid() && (v.Kind() != reflect.Pointer || !v.IsNil()) {
		if t := info.AuthType(); t == "insecure" || t == "local" { // those of gRPC that have no certificates
			return nil, nil
		}
	}
	err := &attest.Error{Kind: attest.Internal, Check: "transport", Err: fmt.Errorf("credentials (%T) hide the TLS connection", info)}
	err.Hint = "use svidgrpc's Credentials, go-spiffe's or gRPC's"
	return nil, err
}

// embedded is the AuthInfo that another embeds.
func embedded(info credentials.AuthInfo) (credentials.AuthInfo, bool) {
	v := reflect.ValueOf(info)
	if v.Kind() == reflect.Pointer {
		v = v.Elem()
	}
	if v.Kind() != reflect.Struct {
		return nil, false
	}
	field, ok := v.Type().FieldByName("AuthInfo")
	if !ok || !field.Anonymous || !field.IsExported() || len(field.Index) != 1 {
		return nil, false
	}
	inner, ok := v.Field(field.Index[0]).Interface().(credentials.AuthInfo)
	return inner, ok
}
