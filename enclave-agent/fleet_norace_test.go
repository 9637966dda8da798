//go:build !race

package agent

// herd is the most attestations that may come in one second out of a fleet that lost
// its server long ago. Waits are uniform up to retryCap: 67 in the first second on
// average, and fewer later. A herd would be all of them. Each agent makes two
// connections: one attests, one watches.
const (
	fleetSize    = 1000
	herd         = fleetSize * 15 / 100
	raceDetector = false
)
