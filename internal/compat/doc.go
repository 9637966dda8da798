// Package compat tests that a trust domain can be upgraded one machine at a time:
// agents and servers of the version before work with those of this one, and this
// one takes over what that one wrote.
package compat

// Previous is the commit of the version before. A release changes it to the
// release before it.
const Previous = "fe7dd68685e43e69d2daabacc7764478b6bcbef9"
