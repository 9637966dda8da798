// Package socket is the unix socket at which a simulator stands in for a device:
// requests and responses, one after another, each as a four-byte big-endian
// length and that many bytes. What the bytes say is the device's own affair
// (docs/spec/nsm-socket.md, docs/spec/snp-socket.md).
//
//	l, err := socket.Listen("/run/nsm.sock")
//	err = socket.Server{MaxRequest: 4096, Handle: device.Handle}.Serve(ctx, l)
//
// A client can't hold up others: its connection has limits of time and size, and
// there is a limit to the number of connections.
package socket
