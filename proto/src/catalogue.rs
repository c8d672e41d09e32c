//! Every type of image file, as data: its name, magic, messages and extra bytes. The only list of image files there is.

mod names;

/// The first word of image files.
pub const COMMON_MAGIC: u32 = 0x5456_4319;
/// The first word of service files: statistics and caches, which are no part of an image set.
pub const SERVICE_MAGIC: u32 = 0x5510_5940;

/// What comes before the entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Container {
    /// [`COMMON_MAGIC`], then the type's magic. The oldest images have the latter only.
    Common,
    /// The type's magic alone: the inventory is so in all versions, which lets old programs read which version it is.
    MagicOnly,
    /// [`SERVICE_MAGIC`], then the type's magic.
    Service,
    /// Neither header nor entries.
    Raw,
}

impl Container {
    /// The first word of such files, where it is not the magic.
    pub const fn first_word(self) -> Option<u32> {
        match self {
            Self::Common => Some(COMMON_MAGIC),
            Self::Service => Some(SERVICE_MAGIC),
            Self::MagicOnly | Self::Raw => None,
        }
    }
}

/// The messages that the entries are, by their names in the format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Payload {
    /// All entries are of one message.
    All(&'static str),
    /// The first entry is of one message, all others of another.
    HeadThen {
        /// Message of the first entry.
        head: &'static str,
        /// Message of all others.
        entries: &'static str,
    },
    /// No entries: whatever another program wrote.
    Raw,
}

impl Payload {
    /// The message of the entry with this number, counted from 0.
    pub const fn message(&self, entry: u64) -> Option<&'static str> {
        match self {
            Self::All(message) => Some(message),
            Self::HeadThen { head, .. } if entry == 0 => Some(head),
            Self::HeadThen { entries, .. } => Some(entries),
            Self::Raw => None,
        }
    }
}

/// The raw bytes that follow each entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extra {
    /// None.
    No,
    /// Pipes and fifos: `bytes` bytes of queued data.
    PipeData,
    /// Packets: `length` bytes.
    SkQueues,
    /// Shared memory: `size` bytes, padded to 4; none when the contents are in pagemaps.
    IpcShm,
    /// Message queues: `qnum` times a length word, an `ipc_msg`, and `msize` bytes padded to 8.
    IpcMsg,
    /// Semaphores: `nsems` words of 16 bits, padded to 8.
    IpcSem,
    /// Unlinked files: the whole body up to the end of the file; or with `chunks`, a sequence of entries
    /// `ghost_chunk_entry` up to the end of the file, each followed by its `len` bytes.
    GhostFile,
    /// TCP connections: `inq_len`, then `outq_len` bytes.
    TcpStream,
    /// BPF maps: `keys_bytes`, then `values_bytes` bytes.
    BpfMapData,
}

/// One type of image file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageType {
    /// The file name; `%u` and `%lu` stand for a decimal number, `%x` for a hexadecimal one.
    pub pattern: &'static str,
    /// The name that JSON shows.
    pub magic_name: &'static str,
    /// The magic; 0 for raw files.
    pub magic: u32,
    /// What comes before the entries.
    pub container: Container,
    /// What the entries are.
    pub payload: Payload,
    /// What follows each entry.
    pub extra: Extra,
    /// Whether current image sets have such files no more.
    pub legacy: bool,
}

const fn common(pattern: &'static str, magic_name: &'static str, magic: u32, payload: Payload) -> ImageType {
    let (container, extra) = (Container::Common, Extra::No);
    ImageType { pattern, magic_name, magic, container, payload, extra, legacy: false }
}

const fn service(pattern: &'static str, magic_name: &'static str, magic: u32, payload: Payload) -> ImageType {
    let mut image = common(pattern, magic_name, magic, payload);
    image.container = Container::Service;
    image
}

const fn magic_only(
    pattern: &'static str,
    magic_name: &'static str,
    magic: u32,
    payload: Payload,
) -> ImageType {
    let mut image = common(pattern, magic_name, magic, payload);
    image.container = Container::MagicOnly;
    image
}

const fn raw(pattern: &'static str, magic_name: &'static str) -> ImageType {
    let mut image = common(pattern, magic_name, 0, Payload::Raw);
    image.container = Container::Raw;
    image
}

impl ImageType {
    /// Whether such files have a header and entries.
    pub const fn has_entries(&self) -> bool {
        !matches!(self.container, Container::Raw)
    }

    const fn with_extra(mut self, extra: Extra) -> Self {
        self.extra = extra;
        self
    }

    const fn legacy(mut self) -> Self {
        self.legacy = true;
        self
    }
}

const PAGEMAP_ENTRIES: Payload = Payload::HeadThen { head: "pagemap_head", entries: "pagemap_entry" };

/// Declares the constants and the slice of all of them in one go, so that neither can lack one.
macro_rules! catalogue {
    ($($(#[$doc:meta])* $name:ident = $image:expr;)*) => {
        $($(#[$doc])* pub const $name: ImageType = $image;)*
        /// All types of image files.
        pub static CATALOGUE: &[ImageType] = &[$($name),*];
    };
}

catalogue! {
    /// `inventory.img`: How an image set was made: format version, root identifiers, options that restore must follow.
    INVENTORY = magic_only("inventory.img", "INVENTORY", 0x5831_3116, Payload::All("inventory_entry"));
    /// `fdinfo-%u.img`: Slots of one descriptor table.
    FDINFO = common("fdinfo-%u.img", "FDINFO", 0x5621_3732, Payload::All("fdinfo_entry"));
    /// `pagemap-%lu.img`: Which pages of an address space are in a pages file.
    PAGEMAP = common("pagemap-%lu.img", "PAGEMAP", 0x5608_4025, PAGEMAP_ENTRIES);
    /// `pagemap-shmem-%lu.img`: Which pages of a shared memory object are in a pages file.
    SHMEM_PAGEMAP = common("pagemap-shmem-%lu.img", "SHMEM_PAGEMAP", 0x5608_4025, PAGEMAP_ENTRIES);
    /// `core-%u.img`: One thread.
    CORE = common("core-%u.img", "CORE", 0x5505_3847, Payload::All("core_entry"));
    /// `ids-%u.img`: Identifiers of a task's kernel objects.
    IDS = common("ids-%u.img", "IDS", 0x5443_2030, Payload::All("task_kobj_ids_entry"));
    /// `mm-%u.img`: An address space: bounds, auxiliary vector, mappings.
    MM = common("mm-%u.img", "MM", 0x5749_2820, Payload::All("mm_entry"));
    /// `pipes-data.img`: Data queued in pipes.
    PIPES_DATA = common("pipes-data.img", "PIPES_DATA", 0x5645_3709, Payload::All("pipe_data_entry")).with_extra(Extra::PipeData);
    /// `fifo-data.img`: Data queued in fifos.
    FIFO_DATA = common("fifo-data.img", "FIFO_DATA", 0x5933_3054, Payload::All("pipe_data_entry")).with_extra(Extra::PipeData);
    /// `pstree.img`: The process tree.
    PSTREE = common("pstree.img", "PSTREE", 0x5027_3030, Payload::All("pstree_entry"));
    /// `sk-queues.img`: Packets queued in sockets; the payload follows the entry as raw bytes.
    SK_QUEUES = common("sk-queues.img", "SK_QUEUES", 0x5626_4026, Payload::All("sk_packet_entry")).with_extra(Extra::SkQueues);
    /// `utsns-%u.img`: A UTS namespace.
    UTSNS = common("utsns-%u.img", "UTSNS", 0x5447_3203, Payload::All("utsns_entry"));
    /// `ipcns-var-%u.img`: Tunables of an IPC namespace (/proc/sys/kernel and /proc/sys/fs/mqueue).
    IPC_VAR = common("ipcns-var-%u.img", "IPC_VAR", 0x5311_5007, Payload::All("ipc_var_entry"));
    /// `ipcns-shm-%u.img`: System V shared memory segments; the contents follow as raw bytes or live in pagemaps.
    IPCNS_SHM = common("ipcns-shm-%u.img", "IPCNS_SHM", 0x4628_3044, Payload::All("ipc_shm_entry")).with_extra(Extra::IpcShm);
    /// `ipcns-msg-%u.img`: System V message queues; the bodies of messages follow as raw bytes.
    IPCNS_MSG = common("ipcns-msg-%u.img", "IPCNS_MSG", 0x5545_3737, Payload::All("ipc_msg_entry")).with_extra(Extra::IpcMsg);
    /// `ipcns-sem-%u.img`: System V semaphore sets; the values follow as raw bytes.
    IPCNS_SEM = common("ipcns-sem-%u.img", "IPCNS_SEM", 0x5957_3019, Payload::All("ipc_sem_entry")).with_extra(Extra::IpcSem);
    /// `fs-%u.img`: A task's working directory, root directory and umask.
    FS = common("fs-%u.img", "FS", 0x5140_3912, Payload::All("fs_entry"));
    /// `remap-fpath.img`: Files whose path at dump time no longer led to them.
    REMAP_FPATH = common("remap-fpath.img", "REMAP_FPATH", 0x5913_3954, Payload::All("remap_file_path_entry"));
    /// `ghost-file-%x.img`: Files that were open but unlinked; the bodies follow as raw bytes.
    GHOST_FILE = common("ghost-file-%x.img", "GHOST_FILE", 0x5258_3605, Payload::All("ghost_file_entry")).with_extra(Extra::GhostFile);
    /// `memfd.img`: Memory files.
    MEMFD_INODE = common("memfd.img", "MEMFD_INODE", 0x4845_3499, Payload::All("memfd_inode_entry"));
    /// `tcp-stream-%x.img`: A TCP connection; both queues follow the entry as raw bytes.
    TCP_STREAM = common("tcp-stream-%x.img", "TCP_STREAM", 0x5146_5506, Payload::All("tcp_stream_entry")).with_extra(Extra::TcpStream);
    /// `mountpoints-%u.img`: Mounts of a mount namespace.
    MNTS = common("mountpoints-%u.img", "MNTS", 0x5556_3928, Payload::All("mnt_entry"));
    /// `netdev-%u.img`: Network devices of a namespace.
    NETDEV = common("netdev-%u.img", "NETDEV", 0x5737_3951, Payload::All("net_device_entry"));
    /// `netns-%u.img`: Settings of a network namespace.
    NETNS = common("netns-%u.img", "NETNS", 0x5593_3752, Payload::All("netns_entry"));
    /// `autofs-%u.img`: Autofs mounts: the daemon's pipe and the mount options.
    AUTOFS = common("autofs-%u.img", "AUTOFS", 0x4935_3943, Payload::All("autofs_entry"));
    /// `binfmt-misc.img`: Interpreters registered in a binfmt_misc mount.
    BINFMT_MISC = common("binfmt-misc.img", "BINFMT_MISC", 0x6734_3323, Payload::All("binfmt_misc_entry"));
    /// `tty-info.img`: Terminal devices.
    TTY_INFO = common("tty-info.img", "TTY_INFO", 0x5945_3036, Payload::All("tty_info_entry"));
    /// `tty-data.img`: Data queued in terminals.
    TTY_DATA = common("tty-data.img", "TTY_DATA", 0x5941_3026, Payload::All("tty_data_entry"));
    /// `filelocks.img`: File locks.
    FILE_LOCKS = common("filelocks.img", "FILE_LOCKS", 0x5432_3616, Payload::All("file_lock_entry"));
    /// `cgroup.img`: Control groups: which sets tasks are in, and the directories with their properties.
    CGROUP = common("cgroup.img", "CGROUP", 0x5938_3330, Payload::All("cgroup_entry"));
    /// `cpuinfo.img`: The CPU a dump was made on, to be compared with the one it is restored on.
    CPUINFO = common("cpuinfo.img", "CPUINFO", 0x6140_4013, Payload::All("cpuinfo_entry"));
    /// `seccomp.img`: Seccomp filter programs of all tasks.
    SECCOMP = common("seccomp.img", "SECCOMP", 0x6441_3049, Payload::All("seccomp_entry"));
    /// `userns-%u.img`: A user namespace.
    USERNS = common("userns-%u.img", "USERNS", 0x5547_4906, Payload::All("userns_entry"));
    /// `files.img`: All open files.
    FILES = common("files.img", "FILES", 0x5630_3138, Payload::All("file_entry"));
    /// `timens-%u.img`: A time namespace.
    TIMENS = common("timens-%u.img", "TIMENS", 0x4311_4433, Payload::All("timens_entry"));
    /// `pidns-%u.img`: A pid namespace.
    PIDNS = common("pidns-%u.img", "PIDNS", 0x6115_7326, Payload::All("pidns_entry"));
    /// `bpfmap-data.img`: Contents of a BPF map; the keys and the values follow the entry as raw bytes.
    BPFMAP_DATA = common("bpfmap-data.img", "BPFMAP_DATA", 0x6432_4033, Payload::All("bpfmap_data_entry")).with_extra(Extra::BpfMapData);
    /// `apparmor.img`: AppArmor policies of the namespaces that the tasks were confined by.
    APPARMOR = common("apparmor.img", "APPARMOR", 0x5942_3047, Payload::All("apparmor_entry"));
    /// `stats-dump`: Statistics of a dump.
    STATS_DUMP = service("stats-dump", "STATS", 0x5709_3306, Payload::All("stats_entry"));
    /// `stats-restore`: Statistics of a restore.
    STATS_RESTORE = service("stats-restore", "STATS", 0x5709_3306, Payload::All("stats_entry"));
    /// `irmap-cache`: Paths found earlier for inodes.
    IRMAP_CACHE = service("irmap-cache", "IRMAP_CACHE", 0x5700_4059, Payload::All("irmap_cache_entry"));

    // Our own; other tools pass over them.

    /// `stasis-threads.img`: State of threads that has no place elsewhere.
    STASIS_THREADS = common("stasis-threads.img", "STASIS_THREADS", 0x5374_6101, Payload::All("stasis_thread_entry"));
    /// `stasis-sockets.img`: State of sockets that has no place elsewhere.
    STASIS_SOCKETS = common("stasis-sockets.img", "STASIS_SOCKETS", 0x5374_6113, Payload::All("stasis_socket_entry"));
    /// `stasis-ghosts.img`: Times and attributes of removed files.
    STASIS_GHOSTS = common("stasis-ghosts.img", "STASIS_GHOSTS", 0x5374_6110, Payload::All("stasis_ghost_entry"));
    /// `stasis-policy.img`: What of the tree's descriptors was lost, and what must be handed in, as the user decided.
    STASIS_POLICY = common("stasis-policy.img", "STASIS_POLICY", 0x5374_6111, Payload::All("stasis_policy_entry"));
    /// `stasis-devices.img`: Which devices nodes were.
    STASIS_DEVICES = common("stasis-devices.img", "STASIS_DEVICES", 0x5374_6112, Payload::All("stasis_device_entry"));
    /// `stasis-checksums.img`: Checksums of all other files.
    STASIS_CHECKSUMS = common("stasis-checksums.img", "STASIS_CHECKSUMS", 0x5374_6131, Payload::All("stasis_checksum_entry"));
    /// `stasis-mm-%u.img`: Properties of an address space that have no place elsewhere.
    STASIS_MM = common("stasis-mm-%u.img", "STASIS_MM", 0x5374_6132, Payload::All("stasis_mm_entry"));
    /// `stasis-tty.img`: State of pseudo-terminals that has no place elsewhere.
    STASIS_TTY = common("stasis-tty.img", "STASIS_TTY", 0x5374_6102, Payload::All("stasis_tty_entry"));
    /// `stasis-queues-%u.img`: POSIX message queues of an ipc namespace.
    STASIS_QUEUES = common("stasis-queues-%u.img", "STASIS_QUEUES", 0x5374_6171, Payload::All("stasis_queue_entry"));
    /// `stasis-queue-files.img`: Descriptors of POSIX message queues.
    STASIS_QUEUE_FILES = common("stasis-queue-files.img", "STASIS_QUEUE_FILES", 0x5374_6172, Payload::All("stasis_queue_file_entry"));
    /// `stasis-userns.img`: User namespaces below that of the root.
    STASIS_USERNS = common("stasis-userns.img", "STASIS_USERNS", 0x5374_6181, Payload::All("stasis_userns_entry"));
    /// `stasis-pidns.img`: State of pid namespaces that has no place elsewhere.
    STASIS_PIDNS = common("stasis-pidns.img", "STASIS_PIDNS", 0x5374_6182, Payload::All("stasis_pidns_entry"));
    /// `stasis-network.img`: What holds packets back between dump and restore.
    STASIS_NETWORK = common("stasis-network.img", "STASIS_NETWORK", 0x5374_6127, Payload::All("stasis_network_entry"));
    /// `stasis-links-%u.img`: State of network devices that has no place elsewhere.
    STASIS_LINKS = common("stasis-links-%u.img", "STASIS_LINKS", 0x5374_6161, Payload::All("stasis_link_entry"));
    /// `stasis-sysctls-%u.img`: Tunables of a network namespace.
    STASIS_SYSCTLS = common("stasis-sysctls-%u.img", "STASIS_SYSCTLS", 0x5374_6162, Payload::All("stasis_sysctl_entry"));
    /// `stasis-neighbours-%u.img`: Neighbours that do not come and go by themselves.
    STASIS_NEIGHBOURS = common("stasis-neighbours-%u.img", "STASIS_NEIGHBOURS", 0x5374_6163, Payload::All("stasis_netlink_message"));
    /// `stasis-rules6-%u.img`: Rules that choose between tables of routes of IPv6.
    STASIS_RULES6 = common("stasis-rules6-%u.img", "STASIS_RULES6", 0x5374_6166, Payload::All("stasis_netlink_message"));
    /// `stasis-nexthops-%u.img`: Next hops that have numbers of their own.
    STASIS_NEXTHOPS = common("stasis-nexthops-%u.img", "STASIS_NEXTHOPS", 0x5374_6168, Payload::All("stasis_netlink_message"));
    /// `stasis-tun.img`: State of descriptors of TUN and TAP devices that has no place elsewhere.
    STASIS_TUN = common("stasis-tun.img", "STASIS_TUN", 0x5374_6167, Payload::All("stasis_tun_entry"));
    /// `stasis-nftables-%u.img`: Tables of nftables, and all that is in them.
    STASIS_NFTABLES = common("stasis-nftables-%u.img", "STASIS_NFTABLES", 0x5374_6164, Payload::All("stasis_netlink_message"));
    /// `stasis-xtables-%u.img`: Tables of iptables.
    STASIS_XTABLES = common("stasis-xtables-%u.img", "STASIS_XTABLES", 0x5374_6165, Payload::All("stasis_xtable_entry"));
    /// `stasis-notify.img`: State of inotify instances that has no place elsewhere.
    STASIS_NOTIFY = common("stasis-notify.img", "STASIS_NOTIFY", 0x5374_6151, Payload::All("stasis_notify_entry"));

    // Files without header and entries.

    /// `ifaddr-%u.img`: Output of `ip addr save`.
    IFADDR = raw("ifaddr-%u.img", "IFADDR");
    /// `route-%u.img`: Output of `ip route save`.
    ROUTE = raw("route-%u.img", "ROUTE");
    /// `route6-%u.img`: Output of `ip -6 route save`.
    ROUTE6 = raw("route6-%u.img", "ROUTE6");
    /// `rule-%u.img`: Output of `ip rule save`.
    RULE = raw("rule-%u.img", "RULE");
    /// `iptables-%u.img`: Text of iptables-save.
    IPTABLES = raw("iptables-%u.img", "IPTABLES");
    /// `ip6tables-%u.img`: Text of ip6tables-save.
    IP6TABLES = raw("ip6tables-%u.img", "IP6TABLES");
    /// `nftables-%u.img`: Text of `nft list ruleset`.
    NFTABLES = raw("nftables-%u.img", "NFTABLES");
    /// `tmpfs-%u.tar.gz.img`: Gzipped tar of a tmpfs mount.
    TMPFS_IMG = raw("tmpfs-%u.tar.gz.img", "TMPFS_IMG");
    /// `tmpfs-dev-%u.tar.gz.img`: Gzipped tar of a devtmpfs mount.
    TMPFS_DEV = raw("tmpfs-dev-%u.tar.gz.img", "TMPFS_DEV");
    /// `pages-%u.img`: Page contents, in pagemap order.
    PAGES = raw("pages-%u.img", "PAGES");
    /// `netns-ct-%u.img`: Netlink conntrack dump messages.
    NETNF_CT = raw("netns-ct-%u.img", "NETNF_CT");
    /// `netns-exp-%u.img`: Netlink expectation dump messages.
    NETNF_EXP = raw("netns-exp-%u.img", "NETNF_EXP");

    // Files that newer images have merged into others; they are still understood.

    /// `reg-files.img`: An open file; `size`, `build_id` and `checksum` let restore notice that it was changed.
    REG_FILES = common("reg-files.img", "REG_FILES", 0x5036_3636, Payload::All("reg_file_entry")).legacy();
    /// `ext-files.img`: A file of which only its place in the descriptor table is known.
    EXT_FILES = common("ext-files.img", "EXT_FILES", 0x5925_5641, Payload::All("ext_file_entry")).legacy();
    /// `ns-files.img`: A descriptor of a namespace; `ns_cflag` is its CLONE_NEW* bit.
    NS_FILES = common("ns-files.img", "NS_FILES", 0x6139_4011, Payload::All("ns_file_entry")).legacy();
    /// `eventfd.img`: An eventfd and its counter.
    EVENTFD_FILE = common("eventfd.img", "EVENTFD_FILE", 0x4452_3722, Payload::All("eventfd_file_entry")).legacy();
    /// `eventpoll.img`: An epoll instance.
    EVENTPOLL_FILE = common("eventpoll.img", "EVENTPOLL_FILE", 0x4502_3858, Payload::All("eventpoll_file_entry")).legacy();
    /// `eventpoll-tfd.img`: One watched descriptor; `dev`, `inode` and `pos` tell which file it was when the number was used again.
    EVENTPOLL_TFD = common("eventpoll-tfd.img", "EVENTPOLL_TFD", 0x4443_3746, Payload::All("eventpoll_tfd_entry")).legacy();
    /// `signalfd.img`: A signalfd.
    SIGNALFD = common("signalfd.img", "SIGNALFD", 0x5732_3820, Payload::All("signalfd_entry")).legacy();
    /// `inotify.img`: An inotify instance.
    INOTIFY_FILE = common("inotify.img", "INOTIFY_FILE", 0x4842_4431, Payload::All("inotify_file_entry")).legacy();
    /// `inotify-wd.img`: One watch.
    INOTIFY_WD = common("inotify-wd.img", "INOTIFY_WD", 0x5456_2009, Payload::All("inotify_wd_entry")).legacy();
    /// `fanotify.img`: A fanotify group.
    FANOTIFY_FILE = common("fanotify.img", "FANOTIFY_FILE", 0x5509_6122, Payload::All("fanotify_file_entry")).legacy();
    /// `fanotify-mark.img`: One mark; `ie` or `me` is set, as `type` says.
    FANOTIFY_MARK = common("fanotify-mark.img", "FANOTIFY_MARK", 0x5650_6035, Payload::All("fanotify_mark_entry")).legacy();
    /// `vmas-%u.img`: One mapping: `status` says what it is, and `shmid` names the shared object or the file behind it.
    VMAS = common("vmas-%u.img", "VMAS", 0x5412_3737, Payload::All("vma_entry")).legacy();
    /// `pipes.img`: One end of the pipe `pipe_id`.
    PIPES = common("pipes.img", "PIPES", 0x5651_3555, Payload::All("pipe_entry")).legacy();
    /// `fifo.img`: An open fifo; `regf_id` is the file that says how it was opened.
    FIFO = common("fifo.img", "FIFO", 0x5836_4939, Payload::All("fifo_entry")).legacy();
    /// `sigacts-%u.img`: A handler, as rt_sigaction takes it.
    SIGACT = common("sigacts-%u.img", "SIGACT", 0x5534_4201, Payload::All("sa_entry")).legacy();
    /// `unixsk.img`: A unix socket; `peer` is the inode number of the other end.
    UNIXSK = common("unixsk.img", "UNIXSK", 0x5437_3943, Payload::All("unix_sk_entry")).legacy();
    /// `inetsk.img`: A socket; addresses are one word for IPv4 and four for IPv6, in network byte order.
    INETSK = common("inetsk.img", "INETSK", 0x5644_3851, Payload::All("inet_sk_entry")).legacy();
    /// `packetsk.img`: A packet socket.
    PACKETSK = common("packetsk.img", "PACKETSK", 0x6045_4618, Payload::All("packet_sock_entry")).legacy();
    /// `netlinksk.img`: A netlink socket.
    NETLINK_SK = common("netlinksk.img", "NETLINK_SK", 0x5800_5614, Payload::All("netlink_sk_entry")).legacy();
    /// `itimers-%u.img`: Interval (i) and time left (v) of an interval timer.
    ITIMERS = common("itimers-%u.img", "ITIMERS", 0x5746_4056, Payload::All("itimer_entry")).legacy();
    /// `posix-timers-%u.img`: A POSIX timer: how it notifies, its interval (i) and the time left (v).
    POSIX_TIMERS = common("posix-timers-%u.img", "POSIX_TIMERS", 0x5260_3957, Payload::All("posix_timer_entry")).legacy();
    /// `creds-%u.img`: User and group identifiers, capabilities (low word first), and the security module's labels.
    CREDS = common("creds-%u.img", "CREDS", 0x5402_3547, Payload::All("creds_entry")).legacy();
    /// `binfmt-misc-%u.img`: One registered interpreter: by `extension`, or by `magic` and `mask` at `offset`.
    BINFMT_MISC_OLD = common("binfmt-misc-%u.img", "BINFMT_MISC_OLD", 0x6734_3323, Payload::All("binfmt_misc_entry")).legacy();
    /// `tty.img`: A descriptor of the terminal `tty_info_id`.
    TTY_FILES = common("tty.img", "TTY_FILES", 0x5943_3025, Payload::All("tty_file_entry")).legacy();
    /// `rlimit-%u.img`: The soft and the hard limit.
    RLIMIT = common("rlimit-%u.img", "RLIMIT", 0x5711_3925, Payload::All("rlimit_entry")).legacy();
    /// `signal-s-%u.img`: One siginfo_t as raw bytes.
    SIGNAL = common("signal-s-%u.img", "SIGNAL", 0x5925_5647, Payload::All("siginfo_entry")).legacy();
    /// `signal-p-%u.img`: One siginfo_t as raw bytes.
    PSIGNAL = common("signal-p-%u.img", "PSIGNAL", 0x5925_5647, Payload::All("siginfo_entry")).legacy();
    /// `tunfile.img`: A descriptor that may be attached to the device `netdev`.
    TUNFILE = common("tunfile.img", "TUNFILE", 0x5714_3751, Payload::All("tunfile_entry")).legacy();
    /// `timerfd.img`: A timerfd.
    TIMERFD = common("timerfd.img", "TIMERFD", 0x5049_3712, Payload::All("timerfd_entry")).legacy();
    /// `bpfmap-file.img`: A descriptor of a BPF map; descriptors with the same `map_id` share the map.
    BPFMAP_FILE = common("bpfmap-file.img", "BPFMAP_FILE", 0x5750_6142, Payload::All("bpfmap_file_entry")).legacy();
    /// `pidfd.img`: A descriptor of the process `nspid`.
    PIDFD = common("pidfd.img", "PIDFD", 0x5443_5556, Payload::All("pidfd_entry")).legacy();
}
