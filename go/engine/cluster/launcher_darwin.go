package cluster

import "syscall"

func sysProcAttr() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setsid: true} }

// oomKills: the system does not count them.
func oomKills() uint64 { return 0 }
