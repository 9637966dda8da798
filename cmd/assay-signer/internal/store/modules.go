package store

import "sync"

// modules keeps PKCS#11 libraries from being opened and closed at the same time:
// initialisation is for the whole process, and one library can serve several
// stores.
type modules struct{ sync.Mutex }
