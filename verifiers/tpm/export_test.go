package tpm

// OccupyReplays has as many replays under way as there may be, until the function
// that it returns is called.
func OccupyReplays(v *Verifier) (release func()) {
	for range cap(v.replays) {
		v.replays <- struct{}{}
	}
	return func() {
		for range cap(v.replays) {
			<-v.replays
		}
	}
}
