// Package process tells who is at the other end of a unix socket: which process
// it is, held so that no other can take its place, and what the kernel, the
// container engine and the kubelet say of it.
//
//	p, err := process.OfPeer(conn)            // pinned from now on
//	defer p.Close()
//	seen := set.Look(ctx, p, selectors)       // what it shows, of what is asked
//	if seen.Matches(selectors) { … }          // and it is still the same process
//
// A process is named by its pid, and pids come again. So the kernel is asked for
// a descriptor of the very process that connected (SO_PEERPIDFD, Linux 6.5), or
// one is opened for the pid that it names (pidfd_open(2)); every look begins and
// ends with the question whether that process lives and still runs the program
// that it ran when it connected. One that called execve(2) since gets nothing
// more: what it was is no longer what it is.
//
// User and group are those of the moment of connecting, which the kernel keeps; the
// program is that of the moment at which the connection is accepted, a little later.
//
// What this cannot tell: processes of one user may read each other's memory
// unless the machine forbids it (ptrace(2)), and a process can hand its connection
// to another. Selectors separate users, containers and services; inside one of
// those they are a help against mistakes.
package process
