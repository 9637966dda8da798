package agent

// Handshake is handshake, for the tests of package agent_test.
var Handshake = handshake

// MutualTLS is mutualTLS, for the tests of package agent_test.
var MutualTLS = mutualTLS
