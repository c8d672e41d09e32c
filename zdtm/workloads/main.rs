//! The zoo's own programs, in one executable: `zdtm-workload NAME [ARGS]`.

mod aio;
mod autofs;
mod bind_mount;
mod binfmt_misc;
mod bpf_map;
mod busyloop00;
mod capability;
mod caps00;
mod caps01;
mod cgroup;
mod cgroupns;
mod child_opened_proc;
mod child_subreaper;
mod child_subreaper_and_reparent;
mod child_subreaper_existing_child;
mod chroot;
mod chroot_file;
mod clean_mntns;
mod clone_fs;
mod cmdlinenv00;
mod commands;
mod conntrack;
mod console;
mod cow00;
mod cow01;
mod cr_veth;
mod cwd00;
mod cwd01;
mod cwd02;
mod del_standalone_un;
mod deleted_unix_sock;
mod devices;
mod different_creds;
mod directory;
mod dumpable01;
mod dumpable02;
mod env00;
mod epoll;
mod epoll01;
mod epoll_transition;
mod eventfs00;
mod exit_signal;
mod fanotify00;
mod fd;
mod fd01;
mod fd_from_pidfd;
mod fd_limit;
mod fd_offset;
mod fd_sparse;
mod fdt_shared;
mod fifo;
mod fifo_ghost;
mod fifo_ro;
mod fifo_rowo_pair;
mod fifo_upon_unix_socket;
mod file_aio;
mod file_append;
mod file_attr;
mod file_cloexec;
mod file_fown;
mod file_lease;
mod file_lease04;
mod file_locks;
mod file_locks_several;
mod file_read;
mod file_shared;
mod filter;
mod foreign;
mod fork;
mod fpu00;
mod fpu01;
mod fpu02;
mod fpu03;
mod fpu04;
mod fpu05;
mod futex;
mod futex_pi;
mod futex_rl;
mod ghost_holes;
mod ghost_on_rofs;
mod gpr00;
mod groups;
mod heap;
mod helper_zombie_child;
mod hugetlb00;
mod hugetlb_1g;
mod inet;
mod inotify;
mod inotify00;
mod inotify01;
mod inotify04;
mod inotify_irmap;
mod inotify_pending;
mod ipc;
mod ipc_namespace;
mod lazy_thp;
mod link10;
mod loginuid;
mod macvlan_outside;
mod mapping;
mod maps00;
mod maps007;
mod maps008;
mod maps01;
mod maps02;
mod maps04;
mod maps05;
mod maps06;
mod maps09;
mod maps10;
mod maps11;
mod maps12;
mod maps_edges;
mod maps_file_prot;
mod maps_many;
mod maps_properties;
mod maps_swapped;
mod maps_vast;
mod membarrier;
mod memfd00;
mod memfd01;
mod memfd02;
mod memfd02_hugetlb;
mod memfd03;
mod memfd04;
mod memfd05;
mod mlock_setuid;
mod mmx00;
mod mnt_ext;
mod mnt_ext_collision;
mod mnt_ext_file_bind_auto;
mod mnt_ext_multiple;
mod mnt_ext_root;
mod mnt_ro_bind;
mod mnt_ro_root;
mod mnt_root_ext;
mod mnt_root_shared;
mod mntns_deleted;
mod mntns_ghost;
mod mntns_ghost01;
mod mntns_link_ghost;
mod mntns_link_remap;
mod mntns_open;
mod mntns_overlay;
mod mntns_overmount;
mod mntns_part;
mod mntns_pivot_root;
mod mntns_pivot_root_ro;
mod mntns_remap;
mod mntns_removed;
mod mntns_ro_root;
mod mntns_root_bind;
mod mntns_root_bind02;
mod mntns_rw_ro_rw;
mod mntns_shared_bind;
mod mntns_shared_bind02;
mod mntns_shared_bind03;
mod mntns_shared_vs_private;
mod mount_complex_sharing;
mod mount_paths;
mod mounting;
mod mountpoints;
mod mprotect00;
mod mqueue;
mod msgque;
mod mtime_mmap;
mod mutex;
mod namespace_files;
mod namespaces;
mod nanosleep;
mod netns_lock;
mod netns_named;
mod netns_sub;
mod netns_sub_sysctl;
mod netns_sub_tcp;
mod netns_sub_veth;
mod network;
mod non_uniform_share_propagation;
mod oom_score_adj;
mod opath_file;
mod orphans;
mod overmount_dev;
mod overmount_fifo;
mod overmount_file;
mod overmount_sock;
mod overmount_with_shared_parent;
mod overmounted_file;
mod packet_sock;
mod pdeath_sig;
mod personality;
mod pid00;
mod pid_file;
mod pid_reuse;
mod pidfd_child;
mod pidfd_dead;
mod pidfd_kill;
mod pidfd_outside;
mod pidfd_self;
mod pidns;
mod pipe00;
mod pipe01;
mod pipe02;
mod pipe03;
mod pipe_loop00;
mod pipe_shared00;
mod poll;
mod posix_timers;
mod posix_timers_pending;
mod private_bind_propagation;
mod proc_self;
mod process_fd;
mod pstree;
mod pthread00;
mod pthread01;
mod pthread_timers;
mod pthread_timers_h;
mod ptrace_sig;
mod pty00;
mod pty01;
mod pty02;
mod pty03;
mod pty04;
mod pty_console;
mod raw_socket;
mod remap_dead_pid;
mod ring;
mod rlimits00;
mod rmdir_open;
mod rseq00;
mod rseq01;
mod sched_policy00;
mod sched_prio00;
mod scm;
mod scm00;
mod scm01;
mod scm02;
mod scm03;
mod scm04;
mod scm05;
mod scm06;
mod scm09;
mod seccomp_filter;
mod seccomp_filter_inheritance;
mod seccomp_filter_threads;
mod seccomp_filter_tsync;
mod seccomp_no_new_privs;
mod seccomp_strict;
mod segments;
mod selfexe00;
mod sem;
mod session00;
mod sessions;
mod shared_mount_propagation;
mod shared_slave_mount_children;
mod shm;
mod shm_hugetlb;
mod shmem;
mod shmemfd;
mod siblings_shared;
mod sigactions;
mod sigaltstack;
mod signalfd00;
mod sigpending;
mod sigtrap;
mod sigtrap01;
mod sk_freebind;
mod sk_netlink;
mod sk_unix01;
mod sk_unix_dgram_ghost;
mod sk_unix_listen;
mod sk_unix_mntns;
mod sk_unix_rel;
mod sk_unix_restore_fs_share;
mod sk_unix_unconn;
mod sleep_left;
mod sleeping00;
mod sock_filter;
mod sock_opts;
mod socket_aio;
mod socket_close_data;
mod socket_close_data01;
mod socket_dgram_data;
mod socket_dump_tcp_close;
mod socket_ext;
mod socket_listen;
mod socket_loop00;
mod socket_queues;
mod socket_raw;
mod socket_tcp;
mod socket_tcp_close;
mod socket_tcp_closed;
mod socket_tcp_fin;
mod socket_tcp_half;
mod socket_tcp_in_flight;
mod socket_tcp_local;
mod socket_tcp_outside;
mod socket_tcp_reuseport;
mod socket_tcp_syn_sent;
mod socket_tcp_talk;
mod socket_tcpbuf;
mod socket_udp;
mod socket_udp_broadcast;
mod socket_udp_corked;
mod socket_udp_shutdown;
mod sockets00;
mod sockets01;
mod sockets02;
mod sockets03;
mod sockets_dgram;
mod sockets_spair;
mod spaces_part;
mod spinning;
mod sse00;
mod sse20;
mod stack;
mod stack_growth;
mod stop_pending;
mod stopped;
mod stopped12;
mod stopped_in_call;
mod symlink;
mod symlink01;
mod sysv_shm;
mod sysv_shm_outside;
mod task_settings;
mod tasks_alike;
mod tasks_many;
mod tasks_shared;
mod tcp;
mod tcp_established;
mod tcp_peer;
mod tempfs;
mod tempfs_overmounted;
mod tempfs_overmounted01;
mod terminal;
mod thp_disable;
mod thread_different_uid_gid;
mod thread_settings;
mod threads_alike;
mod time;
mod timens;
mod timer;
mod timerfd;
mod timers;
mod timers01;
mod tmpfile00;
mod tty00;
mod tty02;
mod tty03;
mod tun_ns;
mod uffd_events;
mod umask00;
mod unbindable;
mod unbound_sock;
mod unhashed_proc;
mod unix;
mod unix_sock;
mod unix_socket;
mod unlink_fifo;
mod unlink_fstat00;
mod unlink_fstat01;
mod unlink_fstat02;
mod unlink_fstat03;
mod unlink_fstat041;
mod unlink_largefile;
mod unlink_mmap00;
mod unlink_mmap01;
mod unlink_regular00;
mod unshared;
mod uprobes;
mod userns;
mod utsname;
mod vdso00;
mod vdso01;
mod vdso02;
mod vdso_proxy;
mod vfork;
mod vt;
mod wait00;
mod write_read00;
mod write_read01;
mod write_read02;
mod write_read10;
mod xids00;
mod zombie00;
mod zombie01;
mod zombie_leader;

use zdtm::workload::Workload;

/// Every workload.
static WORKLOADS: &[Workload] = &[
    Workload { name: "aio", run: aio::run },
    Workload { name: "autofs", run: autofs::run },
    Workload { name: "autofs_direct", run: autofs::direct },
    Workload { name: "autofs_part", run: autofs::part },
    Workload { name: "bind-mount", run: bind_mount::run },
    Workload { name: "binfmt_misc", run: binfmt_misc::run },
    Workload { name: "bpf_map", run: bpf_map::run },
    Workload { name: "busyloop00", run: busyloop00::run },
    Workload { name: "caps00", run: caps00::run },
    Workload { name: "caps01", run: caps01::run },
    Workload { name: "cgroup", run: cgroup::run },
    Workload { name: "cgroupns", run: cgroupns::run },
    Workload { name: "cgroupns_part", run: spaces_part::cgroup },
    Workload { name: "child_opened_proc", run: child_opened_proc::run },
    Workload { name: "child_subreaper", run: child_subreaper::run },
    Workload { name: "child_subreaper_and_reparent", run: child_subreaper_and_reparent::run },
    Workload { name: "child_subreaper_existing_child", run: child_subreaper_existing_child::run },
    Workload { name: "chroot", run: chroot::run },
    Workload { name: "chroot-file", run: chroot_file::run },
    Workload { name: "clean_mntns", run: clean_mntns::run },
    Workload { name: "clone_fs", run: clone_fs::run },
    Workload { name: "cmdlinenv00", run: cmdlinenv00::run },
    Workload { name: "console", run: console::run },
    Workload { name: "cr_veth", run: cr_veth::run },
    Workload { name: "cow00", run: cow00::run },
    Workload { name: "cow01", run: cow01::run },
    Workload { name: "cwd00", run: cwd00::run },
    Workload { name: "cwd01", run: cwd01::run },
    Workload { name: "cwd02", run: cwd02::run },
    Workload { name: "del_standalone_un", run: del_standalone_un::run },
    Workload { name: "deleted_dev", run: symlink01::device },
    Workload { name: "deleted_unix_sock", run: deleted_unix_sock::run },
    Workload { name: "devices", run: devices::run },
    Workload { name: "different_creds", run: different_creds::run },
    Workload { name: "directory", run: directory::run },
    Workload { name: "dumpable01", run: dumpable01::run },
    Workload { name: "dumpable02", run: dumpable02::run },
    Workload { name: "env00", run: env00::run },
    Workload { name: "epoll", run: epoll::run },
    Workload { name: "epoll-transition", run: epoll_transition::run },
    Workload { name: "epoll01", run: epoll01::run },
    Workload { name: "eventfs00", run: eventfs00::run },
    Workload { name: "exit_signal", run: exit_signal::run },
    Workload { name: "fanotify00", run: fanotify00::run },
    Workload { name: "fd", run: fd::run },
    Workload { name: "fd01", run: fd01::run },
    Workload { name: "fd_from_pidfd", run: fd_from_pidfd::run },
    Workload { name: "fd_limit", run: fd_limit::run },
    Workload { name: "fd_offset", run: fd_offset::run },
    Workload { name: "fd_sparse", run: fd_sparse::run },
    Workload { name: "fdt_shared", run: fdt_shared::run },
    Workload { name: "fifo", run: fifo::run },
    Workload { name: "fifo-ghost", run: fifo_ghost::run },
    Workload { name: "fifo-rowo-pair", run: fifo_rowo_pair::run },
    Workload { name: "fifo_ro", run: fifo_ro::run },
    Workload { name: "fifo_upon_unix_socket", run: fifo_upon_unix_socket::run },
    Workload { name: "file_aio", run: file_aio::run },
    Workload { name: "file_append", run: file_append::run },
    Workload { name: "file_attr", run: file_attr::run },
    Workload { name: "file_cloexec", run: file_cloexec::run },
    Workload { name: "file_fown", run: file_fown::run },
    Workload { name: "file_lease", run: file_lease::run },
    Workload { name: "file_lease04", run: file_lease04::run },
    Workload { name: "file_locks", run: file_locks::run },
    Workload { name: "file_locks_several", run: file_locks_several::run },
    Workload { name: "file_read", run: file_read::run },
    Workload { name: "file_shared", run: file_shared::run },
    Workload { name: "foreign", run: foreign::run },
    Workload { name: "fork", run: fork::run },
    Workload { name: "fpu00", run: fpu00::run },
    Workload { name: "fpu01", run: fpu01::run },
    Workload { name: "fpu02", run: fpu02::run },
    Workload { name: "fpu03", run: fpu03::run },
    Workload { name: "fpu04", run: fpu04::run },
    Workload { name: "fpu05", run: fpu05::run },
    Workload { name: "futex", run: futex::run },
    Workload { name: "futex-pi", run: futex_pi::run },
    Workload { name: "futex-rl", run: futex_rl::run },
    Workload { name: "ghost_holes", run: ghost_holes::run },
    Workload { name: "ghost_on_rofs", run: ghost_on_rofs::run },
    Workload { name: "gpr00", run: gpr00::run },
    Workload { name: "groups", run: groups::run },
    Workload { name: "heap", run: heap::run },
    Workload { name: "helper_zombie_child", run: helper_zombie_child::run },
    Workload { name: "hugetlb00", run: hugetlb00::run },
    Workload { name: "hugetlb_1g", run: hugetlb_1g::run },
    Workload { name: "inotify00", run: inotify00::run },
    Workload { name: "inotify01", run: inotify01::run },
    Workload { name: "inotify04", run: inotify04::run },
    Workload { name: "inotify_irmap", run: inotify_irmap::run },
    Workload { name: "inotify_irmap-forget", run: inotify_irmap::forget },
    Workload { name: "inotify_pending", run: inotify_pending::run },
    Workload { name: "ipc", run: ipc::run },
    Workload { name: "ipc_namespace", run: ipc_namespace::run },
    Workload { name: "ipcns_part", run: spaces_part::ipc },
    Workload { name: "lazy-thp", run: lazy_thp::run },
    Workload { name: "link10", run: link10::run },
    Workload { name: "loginuid", run: loginuid::run },
    Workload { name: "macvlan_outside", run: macvlan_outside::run },
    Workload { name: "macvlan_outside-peer", run: macvlan_outside::peer },
    Workload { name: "maps00", run: maps00::run },
    Workload { name: "maps007", run: maps007::run },
    Workload { name: "maps008", run: maps008::run },
    Workload { name: "maps01", run: maps01::run },
    Workload { name: "maps02", run: maps02::run },
    Workload { name: "maps04", run: maps04::run },
    Workload { name: "maps05", run: maps05::run },
    Workload { name: "maps06", run: maps06::run },
    Workload { name: "maps09", run: maps09::run },
    Workload { name: "maps10", run: maps10::run },
    Workload { name: "maps11", run: maps11::run },
    Workload { name: "maps12", run: maps12::run },
    Workload { name: "maps_edges", run: maps_edges::run },
    Workload { name: "maps_file_prot", run: maps_file_prot::run },
    Workload { name: "maps_many", run: maps_many::run },
    Workload { name: "maps_properties", run: maps_properties::run },
    Workload { name: "maps_swapped", run: maps_swapped::run },
    Workload { name: "maps_vast", run: maps_vast::run },
    Workload { name: "membarrier", run: membarrier::run },
    Workload { name: "memfd00", run: memfd00::run },
    Workload { name: "memfd01", run: memfd01::run },
    Workload { name: "memfd02", run: memfd02::run },
    Workload { name: "memfd02-hugetlb", run: memfd02_hugetlb::run },
    Workload { name: "memfd03", run: memfd03::run },
    Workload { name: "memfd04", run: memfd04::run },
    Workload { name: "memfd05", run: memfd05::run },
    Workload { name: "mlock_setuid", run: mlock_setuid::run },
    Workload { name: "mmx00", run: mmx00::run },
    Workload { name: "mnt_ext_auto", run: mnt_ext::run },
    Workload { name: "mnt_ext_collision", run: mnt_ext_collision::run },
    Workload { name: "mnt_ext_file_bind_auto", run: mnt_ext_file_bind_auto::run },
    Workload { name: "mnt_ext_manual", run: mnt_ext::run },
    Workload { name: "mnt_ext_master", run: mnt_ext::run },
    Workload { name: "mnt_ext_multiple", run: mnt_ext_multiple::run },
    Workload { name: "mnt_ext_root", run: mnt_ext_root::run },
    Workload { name: "mnt_ext_sharing", run: mnt_ext::run },
    Workload { name: "mnt_ro_bind", run: mnt_ro_bind::run },
    Workload { name: "mnt_ro_root", run: mnt_ro_root::run },
    Workload { name: "mnt_root_ext", run: mnt_root_ext::run },
    Workload { name: "mnt_root_shared", run: mnt_root_shared::run },
    Workload { name: "mntns_deleted", run: mntns_deleted::run },
    Workload { name: "mntns_ghost", run: mntns_ghost::run },
    Workload { name: "mntns_ghost01", run: mntns_ghost01::run },
    Workload { name: "mntns_link_ghost", run: mntns_link_ghost::run },
    Workload { name: "mntns_link_remap", run: mntns_link_remap::run },
    Workload { name: "mntns_open", run: mntns_open::run },
    Workload { name: "mntns_overlay", run: mntns_overlay::run },
    Workload { name: "mntns_part", run: mntns_part::run },
    Workload { name: "mntns_overmount", run: mntns_overmount::run },
    Workload { name: "mntns_pivot_root", run: mntns_pivot_root::run },
    Workload { name: "mntns_pivot_root_ro", run: mntns_pivot_root_ro::run },
    Workload { name: "mntns_removed", run: mntns_removed::run },
    Workload { name: "mntns_remap", run: mntns_remap::run },
    Workload { name: "mntns_ro_root", run: mntns_ro_root::run },
    Workload { name: "mntns_root_bind", run: mntns_root_bind::run },
    Workload { name: "mntns_root_bind02", run: mntns_root_bind02::run },
    Workload { name: "mntns_rw_ro_rw", run: mntns_rw_ro_rw::run },
    Workload { name: "mntns_shared_bind", run: mntns_shared_bind::run },
    Workload { name: "mntns_shared_bind02", run: mntns_shared_bind02::run },
    Workload { name: "mntns_shared_bind03", run: mntns_shared_bind03::run },
    Workload { name: "mntns_shared_vs_private", run: mntns_shared_vs_private::run },
    Workload { name: "mount_complex_sharing", run: mount_complex_sharing::run },
    Workload { name: "mount_paths", run: mount_paths::run },
    Workload { name: "mountpoints", run: mountpoints::run },
    Workload { name: "mprotect00", run: mprotect00::run },
    Workload { name: "mqueue", run: mqueue::run },
    Workload { name: "mqueue_notify", run: mqueue::notify },
    Workload { name: "mqueue_removed", run: mqueue::removed },
    Workload { name: "mqueue_part", run: mqueue::part },
    Workload { name: "msgque", run: msgque::run },
    Workload { name: "mtime_mmap", run: mtime_mmap::run },
    Workload { name: "namespace_files", run: namespace_files::run },
    Workload { name: "namespaces", run: namespaces::run },
    Workload { name: "nanosleep", run: nanosleep::run },
    Workload { name: "non_uniform_share_propagation", run: non_uniform_share_propagation::run },
    Workload { name: "oom_score_adj", run: oom_score_adj::run },
    Workload { name: "opath_file", run: opath_file::run },
    Workload { name: "orphans", run: orphans::run },
    Workload { name: "overmount_dev", run: overmount_dev::run },
    Workload { name: "overmount_fifo", run: overmount_fifo::run },
    Workload { name: "overmount_file", run: overmount_file::run },
    Workload { name: "overmount_sock", run: overmount_sock::run },
    Workload { name: "overmount_with_shared_parent", run: overmount_with_shared_parent::run },
    Workload { name: "overmounted_file", run: overmounted_file::run },
    Workload { name: "packet_sock", run: packet_sock::run },
    Workload { name: "pdeath_sig", run: pdeath_sig::run },
    Workload { name: "personality", run: personality::run },
    Workload { name: "pid00", run: pid00::run },
    Workload { name: "pid_file", run: pid_file::run },
    Workload { name: "pid_reuse", run: pid_reuse::run },
    Workload { name: "pidfd_child", run: pidfd_child::run },
    Workload { name: "pidfd_dead", run: pidfd_dead::run },
    Workload { name: "pidfd_kill", run: pidfd_kill::run },
    Workload { name: "pidfd_outside", run: pidfd_outside::run },
    Workload { name: "pidfd_self", run: pidfd_self::run },
    Workload { name: "pidns_deep", run: pidns::deep },
    Workload { name: "pidns_deep_fresh", run: pidns::deep_fresh },
    Workload { name: "pidns_fresh", run: pidns::fresh },
    Workload { name: "pidns_kids", run: pidns::kids },
    Workload { name: "pidns_last", run: pidns::last },
    Workload { name: "pidns_nested", run: pidns::nested },
    Workload { name: "pidns_proc", run: pidns::proc },
    Workload { name: "pipe00", run: pipe00::run },
    Workload { name: "pipe01", run: pipe01::run },
    Workload { name: "pipe02", run: pipe02::run },
    Workload { name: "pipe03", run: pipe03::run },
    Workload { name: "pipe_loop00", run: pipe_loop00::run },
    Workload { name: "pipe_shared00", run: pipe_shared00::run },
    Workload { name: "poll", run: poll::run },
    Workload { name: "posix_timers", run: posix_timers::run },
    Workload { name: "posix_timers_pending", run: posix_timers_pending::run },
    Workload { name: "private_bind_propagation", run: private_bind_propagation::run },
    Workload { name: "proc-self", run: proc_self::run },
    Workload { name: "pstree", run: pstree::run },
    Workload { name: "pthread00", run: pthread00::run },
    Workload { name: "pthread01", run: pthread01::run },
    Workload { name: "pthread_timers", run: pthread_timers::run },
    Workload { name: "pthread_timers_h", run: pthread_timers_h::run },
    Workload { name: "ptrace_sig", run: ptrace_sig::run },
    Workload { name: "pty-console", run: pty_console::run },
    Workload { name: "pty00", run: pty00::run },
    Workload { name: "pty01", run: pty01::run },
    Workload { name: "pty02", run: pty02::run },
    Workload { name: "pty03", run: pty03::run },
    Workload { name: "pty04", run: pty04::run },
    Workload { name: "remap_dead_pid", run: remap_dead_pid::file },
    Workload { name: "remap_dead_pid_root", run: remap_dead_pid::root },
    Workload { name: "rlimits00", run: rlimits00::run },
    Workload { name: "rmdir_open", run: rmdir_open::run },
    Workload { name: "rseq00", run: rseq00::run },
    Workload { name: "rseq01", run: rseq01::run },
    Workload { name: "sched_policy00", run: sched_policy00::run },
    Workload { name: "sched_prio00", run: sched_prio00::run },
    Workload { name: "scm00", run: scm00::run },
    Workload { name: "scm01", run: scm01::run },
    Workload { name: "scm02", run: scm02::run },
    Workload { name: "scm03", run: scm03::run },
    Workload { name: "scm04", run: scm04::run },
    Workload { name: "scm05", run: scm05::run },
    Workload { name: "scm06", run: scm06::run },
    Workload { name: "scm09", run: scm09::run },
    Workload { name: "seccomp_filter", run: seccomp_filter::run },
    Workload { name: "seccomp_filter_inheritance", run: seccomp_filter_inheritance::run },
    Workload { name: "seccomp_filter_threads", run: seccomp_filter_threads::run },
    Workload { name: "seccomp_filter_tsync", run: seccomp_filter_tsync::run },
    Workload { name: "seccomp_no_new_privs", run: seccomp_no_new_privs::run },
    Workload { name: "seccomp_strict", run: seccomp_strict::run },
    Workload { name: "segments", run: segments::run },
    Workload { name: "selfexe00", run: selfexe00::run },
    Workload { name: "sem", run: sem::run },
    Workload { name: "session00", run: session00::run },
    Workload { name: "sessions", run: sessions::run },
    Workload { name: "shared_mount_propagation", run: shared_mount_propagation::run },
    Workload { name: "shared_slave_mount_children", run: shared_slave_mount_children::run },
    Workload { name: "shm", run: shm::run },
    Workload { name: "shm-hugetlb", run: shm_hugetlb::run },
    Workload { name: "shmem", run: shmem::run },
    Workload { name: "shmemfd", run: shmemfd::run },
    Workload { name: "siblings_shared", run: siblings_shared::run },
    Workload { name: "sigactions", run: sigactions::run },
    Workload { name: "sigaltstack", run: sigaltstack::run },
    Workload { name: "signalfd00", run: signalfd00::run },
    Workload { name: "sigpending", run: sigpending::run },
    Workload { name: "sigtrap", run: sigtrap::run },
    Workload { name: "sigtrap01", run: sigtrap01::run },
    Workload { name: "sk-freebind", run: sk_freebind::run },
    Workload { name: "netns_lock", run: netns_lock::run },
    Workload { name: "netns_named", run: netns_named::run },
    Workload { name: "netns_sub", run: netns_sub::run },
    Workload { name: "netns_sub_sysctl", run: netns_sub_sysctl::run },
    Workload { name: "netns_sub_tcp", run: netns_sub_tcp::run },
    Workload { name: "netns_sub_veth", run: netns_sub_veth::run },
    Workload { name: "network", run: network::run },
    Workload { name: "sk-netlink", run: sk_netlink::run },
    Workload { name: "sk-unix-dgram-ghost", run: sk_unix_dgram_ghost::run },
    Workload { name: "sk-unix-listen", run: sk_unix_listen::run },
    Workload { name: "sk-unix-mntns", run: sk_unix_mntns::run },
    Workload { name: "sk-unix-rel", run: sk_unix_rel::run },
    Workload { name: "sk-unix-restore-fs-share", run: sk_unix_restore_fs_share::run },
    Workload { name: "sk-unix-unconn", run: sk_unix_unconn::run },
    Workload { name: "sk-unix01", run: sk_unix01::run },
    Workload { name: "sleep-left", run: sleep_left::run },
    Workload { name: "sleeping00", run: sleeping00::run },
    Workload { name: "sock_filter", run: sock_filter::run },
    Workload { name: "sock_opts", run: sock_opts::run },
    Workload { name: "socket-dump-tcp-close", run: socket_dump_tcp_close::run },
    Workload { name: "socket-ext", run: socket_ext::run },
    Workload { name: "socket-raw", run: socket_raw::run },
    Workload { name: "socket-tcp", run: socket_tcp::run },
    Workload { name: "socket-tcp-close", run: socket_tcp_close::run },
    Workload { name: "socket-tcp-closed", run: socket_tcp_closed::run },
    Workload { name: "socket-tcp-fin", run: socket_tcp_fin::run },
    Workload { name: "socket-tcp-half", run: socket_tcp_half::run },
    Workload { name: "socket-tcp-in-flight", run: socket_tcp_in_flight::run },
    Workload { name: "socket-tcp-local", run: socket_tcp_local::run },
    Workload { name: "socket-tcp-outside", run: socket_tcp_outside::run },
    Workload { name: "socket-tcp-reuseport", run: socket_tcp_reuseport::run },
    Workload { name: "socket-tcp-syn-sent", run: socket_tcp_syn_sent::run },
    Workload { name: "socket-tcp-talk", run: socket_tcp_talk::run },
    Workload { name: "socket-tcpbuf", run: socket_tcpbuf::run },
    Workload { name: "socket_aio", run: socket_aio::run },
    Workload { name: "socket_close_data", run: socket_close_data::run },
    Workload { name: "socket_close_data01", run: socket_close_data01::run },
    Workload { name: "socket_dgram_data", run: socket_dgram_data::run },
    Workload { name: "socket_listen", run: socket_listen::run },
    Workload { name: "socket_loop00", run: socket_loop00::run },
    Workload { name: "socket_queues", run: socket_queues::run },
    Workload { name: "socket_udp", run: socket_udp::run },
    Workload { name: "socket_udp-broadcast", run: socket_udp_broadcast::run },
    Workload { name: "socket_udp-corked", run: socket_udp_corked::run },
    Workload { name: "socket_udp_shutdown", run: socket_udp_shutdown::run },
    Workload { name: "sockets00", run: sockets00::run },
    Workload { name: "sockets01", run: sockets01::run },
    Workload { name: "sockets02", run: sockets02::run },
    Workload { name: "sockets03", run: sockets03::run },
    Workload { name: "sockets_dgram", run: sockets_dgram::run },
    Workload { name: "sockets_spair", run: sockets_spair::run },
    Workload { name: "sse00", run: sse00::run },
    Workload { name: "sse20", run: sse20::run },
    Workload { name: "stack", run: stack::run },
    Workload { name: "stack_growth", run: stack_growth::run },
    Workload { name: "stop_pending", run: stop_pending::run },
    Workload { name: "stopped", run: stopped::run },
    Workload { name: "stopped12", run: stopped12::run },
    Workload { name: "stopped_in_call", run: stopped_in_call::run },
    Workload { name: "symlink", run: symlink::run },
    Workload { name: "symlink01", run: symlink01::symbolic_link },
    Workload { name: "sysv-shm", run: sysv_shm::run },
    Workload { name: "sysv-shm-outside", run: sysv_shm_outside::run },
    Workload { name: "task_settings", run: task_settings::run },
    Workload { name: "tasks_alike", run: tasks_alike::run },
    Workload { name: "tasks_many", run: tasks_many::run },
    Workload { name: "tasks_shared", run: tasks_shared::run },
    Workload { name: "tcp-established", run: tcp_established::run },
    Workload { name: "tcp-peer", run: tcp_peer::run },
    Workload { name: "tempfs", run: tempfs::run },
    Workload { name: "tempfs_overmounted", run: tempfs_overmounted::run },
    Workload { name: "tempfs_overmounted01", run: tempfs_overmounted01::run },
    Workload { name: "thp_disable", run: thp_disable::run },
    Workload { name: "thread_different_uid_gid", run: thread_different_uid_gid::run },
    Workload { name: "thread_settings", run: thread_settings::run },
    Workload { name: "threads_alike", run: threads_alike::run },
    Workload { name: "time", run: time::run },
    Workload { name: "timens", run: timens::run },
    Workload { name: "timerfd", run: timerfd::run },
    Workload { name: "timers", run: timers::run },
    Workload { name: "timers01", run: timers01::run },
    Workload { name: "tmpfile00", run: tmpfile00::run },
    Workload { name: "tty00", run: tty00::run },
    Workload { name: "tty02", run: tty02::run },
    Workload { name: "tty03", run: tty03::run },
    Workload { name: "uffd-events", run: uffd_events::run },
    Workload { name: "umask00", run: umask00::run },
    Workload { name: "unbindable", run: unbindable::run },
    Workload { name: "unbound_sock", run: unbound_sock::run },
    Workload { name: "unhashed_proc", run: unhashed_proc::run },
    Workload { name: "unix-socket", run: unix_socket::run },
    Workload { name: "unix_sock", run: unix_sock::run },
    Workload { name: "unlink_fifo", run: unlink_fifo::run },
    Workload { name: "unlink_fstat00", run: unlink_fstat00::run },
    Workload { name: "unlink_fstat01", run: unlink_fstat01::run },
    Workload { name: "unlink_fstat02", run: unlink_fstat02::run },
    Workload { name: "unlink_fstat03", run: unlink_fstat03::run },
    Workload { name: "unlink_fstat041", run: unlink_fstat041::run },
    Workload { name: "unlink_largefile", run: unlink_largefile::run },
    Workload { name: "unlink_mmap00", run: unlink_mmap00::run },
    Workload { name: "unlink_mmap01", run: unlink_mmap01::run },
    Workload { name: "unlink_regular00", run: unlink_regular00::run },
    Workload { name: "unshared", run: unshared::run },
    Workload { name: "uprobes", run: uprobes::run },
    Workload { name: "tun_ns", run: tun_ns::run },
    Workload { name: "tun_queues", run: tun_ns::queues },
    Workload { name: "utsname", run: utsname::run },
    Workload { name: "userns_forked", run: userns::forked },
    Workload { name: "userns_owned", run: userns::owned },
    Workload { name: "userns_part", run: userns::part },
    Workload { name: "userns_pids", run: userns::pids },
    Workload { name: "userns_sandbox", run: userns::sandbox },
    Workload { name: "userns_time", run: userns::time },
    Workload { name: "userns_within", run: userns::within },
    Workload { name: "utsns_part", run: spaces_part::uts },
    Workload { name: "vdso-proxy", run: vdso_proxy::run },
    Workload { name: "vdso00", run: vdso00::run },
    Workload { name: "vdso01", run: vdso01::run },
    Workload { name: "vdso02", run: vdso02::run },
    Workload { name: "vfork", run: vfork::run },
    Workload { name: "vt", run: vt::run },
    Workload { name: "wait00", run: wait00::run },
    Workload { name: "write_read00", run: write_read00::run },
    Workload { name: "write_read01", run: write_read01::run },
    Workload { name: "write_read02", run: write_read02::run },
    Workload { name: "write_read10", run: write_read10::run },
    Workload { name: "xids00", run: xids00::run },
    Workload { name: "zombie00", run: zombie00::run },
    Workload { name: "zombie01", run: zombie01::run },
    Workload { name: "zombie_leader", run: zombie_leader::run },
];

fn main() -> std::process::ExitCode {
    zdtm::workload::main(WORKLOADS)
}
