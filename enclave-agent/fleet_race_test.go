//go:build race

package agent

// Under the race detector everything takes several times as long, and a smaller fleet
// varies more.
const (
	fleetSize = 250
	herd      = fleetSize * 25 / 100
	// raceDetector says that memory and time are not those of the program.
	raceDetector = true
)
