// Package tpm is a simulated machine with a TPM 2.0: swtpm, a real software TPM
// in a process of its own, as a manufacturer would leave it (endorsement keys,
// with certificates in NV), and a measured boot that is extended into it and
// told in an event log. Import it as simtpm.
//
// It exists so that the real verifier and the real agent can be tested, and the
// product tried, without the hardware. Nothing is mocked: keys, quotes and
// counters are swtpm's, certificates are signed by a real key under a root of
// our own, and the event log is the TCG's crypto-agile format. What is missing
// is the hardware: whoever can read the TPM's state directory has its keys.
//
//	if err := simtpm.Installed(); err != nil { … }         // says how to install swtpm
//	a, err := simtpm.NewAuthority(simtpm.Options{})
//	m, err := a.Start(simtpm.Machine{Boot: simtpm.Boot{Image: "ledger"}})
//	defer m.Close()
//	rsp, err := tpm2.Quote{…}.Execute(m)                    // or m.Serve on a unix socket
//	log := m.EventLog()                                    // what the firmware and the loader wrote
//	err = m.Reset(simtpm.Boot{Image: "ledger-2"})           // reboot into another image
//
// What a verifier must refuse is asked for by name: every [Fault] makes exactly
// one thing wrong, and says in which check of the verifier it must end.
//
//	fault, ok := simtpm.FaultByName("ek-other-authority")
//	m, err := a.Start(simtpm.Machine{}, fault)
//
// A [Machine] without a state directory is made afresh and forgotten at Close;
// with one it keeps its keys, as hardware does. Several run side by side, also
// in one process.
//
// The package speaks the device's own bytes and shares no code with the
// verifier, the agent or the server. The command socket is described in
// docs/spec/tpm-simulator.md.
package tpm
