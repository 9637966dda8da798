package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// terminal is a real one: the end at which a person sits.
type terminal struct {
	*os.File
	t    *testing.T
	far  *os.File // the programs' end
	said buffer
}

func openTerminal(t *testing.T) *terminal {
	t.Helper()
	near, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("NOT TESTED: there are no pseudo-terminals here: %v", err)
	}
	t.Cleanup(func() { _ = near.Close() })
	if err := unix.IoctlSetPointerInt(int(near.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(near.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	far, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = far.Close() })
	x := &terminal{File: near, t: t, far: far}
	go func() {
		b := make([]byte, 4096)
		for {
			n, err := near.Read(b)
			if err != nil {
				return
			}
			_, _ = x.said.Write(b[:n])
		}
	}()
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the terminal shows:\n%s", x.said.String())
		}
	})
	return x
}

// starts runs a program in a session of its own that has this terminal.
func (x *terminal) starts(c *exec.Cmd) {
	x.t.Helper()
	c.Stdin, c.Stdout, c.Stderr = x.far, x.far, x.far
	c.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := c.Start(); err != nil {
		x.t.Fatal(err)
	}
	x.t.Cleanup(func() { _ = c.Process.Kill(); _ = c.Wait() })
}

// types is what the person does.
func (x *terminal) types(keys string) {
	x.t.Helper()
	if _, err := x.WriteString(keys); err != nil {
		x.t.Fatal(err)
	}
}

const ctrlC, ctrlZ = "\x03", "\x1a"

// state is a process's, as in "S (sleeping)".
func state(pid int) string {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	_, rest, _ := strings.Cut(string(b), "State:\t")
	line, _, _ := strings.Cut(rest, "\n")
	return line
}

// interactive is a workload of two processes, both of which hear the terminal. It
// writes what it hears into the file, and ends with 7 when it reads "bye".
func interactive(file string) string {
	return `out=` + file + `
trap 'echo outer-int >> $out' INT
cat > $out.sh <<'END'
trap 'echo inner-int >> $out' INT
trap 'echo "size $(stty size <&3)" >> $out' WINCH
exec 3<&0
echo $$ > $out.inner
echo ready >> $out
while :; do
  IFS= read -r line <&3 || continue
  echo "read $line" >> $out
  [ "$line" = bye ] && exit 7
done
END
echo $$ > $out.outer
export out
sh $out.sh
exit $?`
}

// witness is a file that the workload writes.
type witness struct {
	s    *site
	file string
}

func (w witness) text() string { b, _ := os.ReadFile(w.file); return string(b) }

func (w witness) says(n int, line string) {
	w.s.t.Helper()
	w.s.until(fmt.Sprintf("%d times %q", n, line), func() bool { return strings.Count(w.text(), line+"\n") >= n })
}

func (w witness) pid(which string) int {
	w.s.t.Helper()
	n := 0
	w.s.until("the number of "+which, func() bool {
		b, err := os.ReadFile(w.file + "." + which)
		if err != nil {
			return false
		}
		n, err = strconv.Atoi(strings.TrimSpace(string(b)))
		return err == nil
	})
	return n
}

// quoted is a word of a shell.
func quoted(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// On a terminal, exec is a job like any other for the shell above, and the workload
// has the terminal as if there were no agent: ctrl-C and the window's size reach all
// of it, once; ctrl-Z gives the shell back, fg and bg go on; and at the end the shell
// has its terminal again.
func TestOnATerminalTheWorkloadIsAJobLikeAnyOther(t *testing.T) {
	bash, err := exec.LookPath("bash")
	if err != nil {
		t.Skip("NOT TESTED: it needs bash, for its job control")
	}
	s := newSite(t)
	link := s.path("assay-agent")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(self, link); err != nil {
		t.Fatal(err)
	}
	s.start("agent", s.agent("run", "--data-dir", s.path("agent")))
	s.until("the agent", func() bool { return s.agent("healthcheck", "--data-dir", s.path("agent")).Run() == nil })
	s.write("workload.sh", interactive(s.path("out")))
	run := quoted(link) + " exec --socket " + quoted(s.path("agent/agent.sock")) + " -- "
	w := witness{s, s.path("out")}

	x := openTerminal(t)
	shell := exec.Command(bash, "--norc", "--noprofile", "-i")
	shell.Env = append(os.Environ(), "PS1=prompt> ", "TERM=dumb", "HISTFILE=")
	x.starts(shell)
	prompts := 0
	prompt := func() {
		t.Helper()
		prompts++
		s.until(fmt.Sprintf("prompt %d", prompts), func() bool { return strings.Count(x.said.String(), "prompt> ") >= prompts })
	}
	agent := func() int { // the job's first process
		t.Helper()
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", shell.Process.Pid))
		if err != nil {
			t.Fatal(err)
		}
		f := strings.Fields(string(b))
		if len(f) != 1 {
			t.Fatalf("the shell has the children %q", f)
		}
		n, _ := strconv.Atoi(f[0])
		return n
	}
	prompt()
	x.types(run + "sh " + quoted(s.path("workload.sh")) + "\n")
	w.says(1, "ready")
	inner, outer := w.pid("inner"), w.pid("outer")

	if err := unix.IoctlSetWinsize(int(x.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 41, Col: 123}); err != nil {
		t.Fatal(err)
	}
	w.says(1, "size 41 123")
	x.types(ctrlC)
	w.says(1, "inner-int")
	x.types("one line\n")
	w.says(1, "read one line")

	// ctrl-Z: all stop, and the shell is there.
	stopped := func() {
		t.Helper()
		for who, pid := range map[string]int{"the agent's command": agent(), "the workload": outer, "its child": inner} {
			s.until(who+" stops", func() bool { return strings.HasPrefix(state(pid), "T") })
		}
		prompt()
	}
	x.types(ctrlZ)
	stopped()
	x.types("echo shell $((40+2))\n")
	s.until("the shell's word", func() bool { return strings.Contains(x.said.String(), "shell 42\r\n") })
	prompt()
	x.types("fg\n")
	s.until("it goes on", func() bool { return strings.HasPrefix(state(inner), "S") })
	x.types(ctrlC)
	w.says(2, "inner-int")
	// Again, into the background: who reads the terminal there is stopped by it, and the
	// job with it; and back.
	x.types(ctrlZ)
	stopped()
	x.types("bg\n")
	prompt()
	s.until("who reads from the background stops", func() bool { return strings.HasPrefix(state(inner), "T") })
	s.until("and the job with it", func() bool { return strings.HasPrefix(state(agent()), "T") })
	x.types("fg\n")
	s.until("it goes on", func() bool { return strings.HasPrefix(state(inner), "S") })
	x.types("two lines\n")
	w.says(1, "read two lines")
	x.types("bye\n")
	prompt()
	x.types("echo code $?\n")
	s.until("the exit code", func() bool { return strings.Contains(x.said.String(), "code 7\r\n") })
	prompt()
	if got := strings.Count(w.text(), "inner-int\n"); got != 2 {
		t.Errorf("two ctrl-C are heard %d times", got)
	}
	if !strings.Contains(w.text(), "outer-int\n") { // a shell says so once its command ended
		t.Error("the workload's first process did not hear ctrl-C")
	}

	// A job that begins in the background, and is brought to the front.
	x.types(run + "sh -c " + quoted("sleep 0.3; read x; echo got-$x") + " &\n")
	prompt()
	x.types("fg\n")
	x.types("front\n")
	s.until("what was typed after fg", func() bool { return strings.Contains(x.said.String(), "got-front\r\n") })
	prompt()
	// A script has the terminal again after the workload that it ran.
	x.types("sh -c " + quoted(run+"true; read x; echo after-$x") + "\n")
	s.until("the workload's end", func() bool { return strings.Count(x.said.String(), `msg="the command ended"`) >= 3 })
	x.types("all\n")
	s.until("what a script reads afterwards", func() bool { return strings.Contains(x.said.String(), "after-all\r\n") })
	prompt()
	x.types("exit 0\n")
	if err := shell.Wait(); err != nil {
		t.Errorf("the shell: %v", err)
	}
}

// Where there is a terminal and no shell above, as in a container, ctrl-Z would stop the
// workload for good: it goes on.
func TestWithoutAShellAboveNothingStopsForGood(t *testing.T) {
	s := newSite(t)
	s.write("workload.sh", interactive(s.path("out")))
	w := witness{s, s.path("out")}
	x := openTerminal(t)
	c := s.agent("exec", "--data-dir", s.path("agent"), "--", "sh", filepath.Join(s.dir, "workload.sh"))
	x.starts(c)
	w.says(1, "ready")
	x.types(ctrlC)
	w.says(1, "inner-int")
	x.types(ctrlZ + "typed\n")
	w.says(1, "read typed")
	x.types(ctrlC)
	w.says(2, "inner-int")
	x.types("bye\n")
	err := c.Wait()
	if c.ProcessState.ExitCode() != 7 {
		t.Errorf("it ended with %v, want 7", err)
	}
}
