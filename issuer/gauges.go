package issuer

// registerGauges adds the values that are read when somebody asks.
func (s *Server) registerGauges() {
	m := s.metrics
	m.Gauge("assay_attestations_in_flight", "Attestations in flight.", func() float64 { return float64(s.inFlight.Load()) })
	m.Gauge("assay_unverified_in_flight", "Attestations in flight whose evidence has not verified yet.", func() float64 { return float64(s.unverified.inside()) })
	m.Gauge("assay_event_log_bytes", "Bytes of boot event logs that are held for attestations whose evidence has not verified yet.", func() float64 { return float64(s.unverified.holding()) })
	m.Gauge("assay_handshakes_in_flight", "TLS handshakes in flight.", func() float64 { return float64(s.census().handshakes) })
	m.Gauge("assay_connections", "Open connections.", func() float64 { return float64(s.census().connections) })
	m.Gauge("assay_connections_of_strangers", "Open connections on which nobody has proved anything yet.", func() float64 { return float64(s.census().strangers) })
	m.Gauge("assay_attestations_working", "Attestations whose evidence has come and that are not answered yet.", func() float64 { return float64(s.working.Load()) })
	m.Gauge("assay_attestations_waiting", "Of these, those that wait for their turn to be verified.", func() float64 { return float64(s.waiting()) })
	m.Gauge("assay_watches", "Agents that are watching.", func() float64 { return float64(s.watchers.count()) })
	m.Counter("assay_verifier_panics_total", "Panics of libraries on evidence, each answered as malformed. Any is worth a look.", func() float64 { return float64(s.set.Panics()) })

	m.Gauge("assay_policy_revision", "Revision of the policy in force.", func() float64 { return float64(s.policy.Current().Revision()) })
	m.Gauge("assay_policy_refused", "1 while the content of the policy file is refused and an older one stays in force.", func() float64 { return truth(s.policy.Refused() != "") })

	m.Gauge("assay_policy_outrun", "1 while a newer policy than the policy file's was pushed and is in force.", func() float64 { return truth(s.policy.Outrun() != "") })

	m.Gauge("assay_ledger_entries", "Entries in the issuance ledger.", func() float64 { return float64(s.ledger.Stats().Size) })
	m.Gauge("assay_ledger_queue", "Records that wait for the ledger's writer.", func() float64 { return float64(s.ledger.Stats().Queue) })
	m.Counter("assay_ledger_commits_total", "Durable commits; records come in groups.", func() float64 { return float64(s.ledger.Stats().Commits) })
	m.Counter("assay_ledger_failures_total", "Records that could not be made durable; nothing was signed for them.", func() float64 { return float64(s.ledger.Stats().Failures) })
	m.Counter("assay_ledger_denials_total", "Policy denials on record.", func() float64 { return float64(s.ledger.Stats().Denials) })
	m.Counter("assay_ledger_denials_dropped_total", "Policy denials that were not recorded because of a quota.", func() float64 { return float64(s.ledger.Stats().DenialsDropped) })
	m.Counter("assay_ledger_evidence_dropped_total", "Evidence that was not kept because of a quota.", func() float64 { return float64(s.ledger.Stats().EvidenceDropped) })
	m.Counter("assay_ledger_peer_faults_total", "Times that another server's chain was found cut or written anew.", func() float64 { return float64(s.ledger.Stats().PeerFaults) })
	m.Gauge("assay_checkpoint_size", "Entries that the newest signed checkpoint covers.", func() float64 { return float64(s.ledger.Stats().CheckpointSize) })

	m.Counter("assay_checkpoint_sink_failures_total", "Checkpoints that could not be appended to the sink.", func() float64 { return float64(s.ledger.Stats().SinkFailures) })

	m.Gauge("assay_authority_not_after_seconds", "When the X.509 authority ends, Unix seconds.", func() float64 { return float64(s.ca.Status().AuthorityNotAfter.Unix()) })
	m.Gauge("assay_authority_rows_disbelieved", "Rows about authorities and servers in the database that count for nothing: signed by nobody who may, or missing. Any is worth a look.", func() float64 { return float64(s.ca.Disbelieved()) })
	m.Gauge("assay_server_certificate_not_after_seconds", "When the server's own certificate ends, Unix seconds.", func() float64 { return float64(s.ca.Status().ServerNotAfter.Unix()) })
	m.Gauge("assay_simulated", "1 in a trust domain of simulated hardware.", func() float64 { return truth(s.set.Simulated()) })
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// census is who is connected to a trust domain. Those of whom it is not known
// yet whose they are count for the first.
type census struct{ handshakes, connections, strangers int }

func (s *Server) census() census {
	c := census{s.handshakes.inside(), s.connections.inside(), int(s.strangers.Load())}
	f := s.front.Load()
	if f == nil || f.home() != s {
		return c
	}
	c.handshakes, c.connections, c.strangers = f.handshakes.inside(), f.connections.inside(), f.strangers.inside()
	for _, x := range f.all() {
		if x != s {
			c.handshakes -= x.handshakes.inside()
			c.connections -= x.connections.inside()
			c.strangers -= int(x.strangers.Load())
		}
	}
	return census{max(c.handshakes, 0), max(c.connections, 0), max(c.strangers, 0)}
}

// waiting is how many attestations wait for their turn.
func (s *Server) waiting() int {
	f, l := s.front.Load(), s.line.Load()
	if f == nil || l == nil {
		return 0
	}
	return f.turns.waiting(l)
}
