//! Whole command lines: what they mean, and how they are refused.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use rstest::rstest;

use super::*;
use crate::cgroups::wanted::Props;
use crate::options::{
    Afterwards, AutoMounts, CgroupOptions, CheckScope, Connections, CpuCap, ExternalUnix, FileOptions,
    GhostLimit, Inside, ManageCgroups, MountOptions, NamespaceOptions, NetOptions, NetworkLock, OuterEnd,
    Parent, Timeout, Unsupported, Validation,
};

/// Parses a line split at blanks, without any configuration file.
fn parse_line(line: &str) -> Result<Invocation, Failure> {
    let words = ["stasis"].into_iter().chain(line.split_whitespace()).map(OsString::from);
    parse(words, &Sources::default())
}

fn dump_options(line: &str) -> DumpOptions {
    match parse_line(line) {
        Ok(Invocation::Dump(options)) => options,
        other => panic!("{line}: {other:?}"),
    }
}

fn restore_options(line: &str) -> RestoreOptions {
    match parse_line(line) {
        Ok(Invocation::Restore(options)) => options,
        other => panic!("{line}: {other:?}"),
    }
}

/// The error and its exit code.
fn refusal(line: &str) -> (String, u8) {
    let failure = parse_line(line).unwrap_err();
    (failure.to_string(), failure.exit_code())
}

#[test]
fn a_dump_has_defaults() {
    let expected = DumpOptions {
        tree: 42,
        images_dir: ".".into(),
        work_dir: ".".into(),
        timeout: Timeout(Duration::from_secs(10)),
        ..DumpOptions::default()
    };
    assert_eq!(dump_options("dump -t 42"), expected);
}

#[test]
fn every_option_of_a_dump_arrives() {
    let line = "dump --tree=42 -D /img -W /work -o d.log -v4 -R -j --display-stats --timeout 3 --tcp-established --network-lock skip -x=7 --external unix[8] \
        --ghost-limit 2M --link-remap -l --file-validation filesize --skip-file-rwx-check --evasive-devices \
        --external file[1d:7] --irmap-scan-path /srv --on-unsupported device=close --root /r --external mnt[/a]:b --ext-mount-map /c:d \
        --external mnt[]:m --enable-external-sharing --enable-external-masters --enable-fs xfs,nfs --skip-mnt /s --manage-cgroups=full --cgroup-root /g --cgroup-root cpu:/h \
        --cgroup-yard /y --freeze-cgroup /f --cpu-cap=fpu --cgroup-dump-controller cpu";
    let expected = DumpOptions {
        tree: 42,
        images_dir: "/img".into(),
        work_dir: "/work".into(),
        afterwards: Afterwards::LeaveRunning,
        shell_job: true,
        timeout: Timeout(Duration::from_secs(3)),
        connections: Connections::Kept,
        skip_in_flight: false,
        network_lock: NetworkLock::Skip,
        external_unix: ExternalUnix { all: false, inodes: vec![7, 8] },
        files: FileOptions {
            ghost_limit: GhostLimit(2 << 20),
            link_remap: true,
            file_locks: true,
            validation: Validation::FileSize,
            skip_rwx_check: true,
            evasive_devices: true,
            irmap: Some(vec!["/srv".into()]),
            external: ["unix[8]", "file[1d:7]", "mnt[/a]:b", "mnt[]:m"].map(String::from).to_vec(),
            on_unsupported: vec![("device".into(), Unsupported::Close)],
        },
        cgroups: CgroupOptions {
            manage: ManageCgroups::Full,
            roots: vec![(None, "/g".into()), (Some("cpu".into()), "/h".into())],
            yard: Some("/y".into()),
            controllers: vec!["cpu".into()],
            props: Props::new(),
        },
        freeze_cgroup: Some("/f".into()),
        mounts: MountOptions {
            root: Some("/r".into()),
            external: vec![("/a".into(), "b".into()), ("/c".into(), "d".into())],
            auto: Some(AutoMounts { masters: true, sharing: false }),
            external_sharing: true,
            external_masters: true,
            enabled: vec!["xfs".into(), "nfs".into()],
            skip: vec!["/s".into()],
        },
        skip_checksums: false,
        display_stats: true,
        describe_cpu: true,
        inside: Inside::default(),
        namespaces: NamespaceOptions::default(),
        log: LogOptions { level: LogLevel::Debug, file: Some("/work/d.log".into()) },
    };
    assert_eq!(dump_options(line), expected);
}

#[test]
fn every_option_of_a_restore_arrives() {
    let line = "restore --images-dir /img --restore-detached --restore-sibling -s --pidfile pid --shell-job \
        --inherit-fd fd[3]:socket:[1] --veth-pair a=b@c --weak-sysctls --cpu-cap";
    let expected = RestoreOptions {
        images_dir: "/img".into(),
        work_dir: "/img".into(),
        parent: Parent::Sibling,
        afterwards: Afterwards::LeaveStopped,
        inherit_fds: vec![(3, "socket:[1]".into())],
        net: NetOptions {
            pairs: vec![OuterEnd { inner: "a".into(), outer: "b".into(), bridge: Some("c".into()) }],
            macvlans: Vec::new(),
        },
        weak_sysctls: true,
        cpu_cap: CpuCap { fpu: true, ins: true, cpu: false },
        pidfile: Some("pid".into()),
        shell_job: true,
        ..RestoreOptions::default()
    };
    assert_eq!(restore_options(line), expected);
    assert_eq!(restore_options("restore").parent, Parent::Foreground);
    assert_eq!(restore_options("restore -d").parent, Parent::Detached);
}

#[rstest]
#[case("", LogLevel::Warnings)]
#[case("-v", LogLevel::Info)]
#[case("-vv", LogLevel::Debug)]
#[case("-v -v", LogLevel::Debug)]
#[case("-vvvvvvv", LogLevel::Debug)]
#[case("-v0", LogLevel::Silent)]
#[case("-v4 -v1", LogLevel::Errors)]
#[case("--verbosity", LogLevel::Info)]
#[case("--verbosity=3", LogLevel::Info)]
#[case("-v9", LogLevel::Debug)]
fn verbosity_is_added_up_or_set(#[case] words: &str, #[case] level: LogLevel) {
    assert_eq!(dump_options(&format!("dump -t 1 {words}")).log.level, level);
}

#[rstest]
#[case("-D /img -o x.log", "/img/x.log")]
#[case("-D /img -o /var/log/x.log", "/var/log/x.log")]
#[case("-D /img -W w -o x.log", "w/x.log")]
fn logs_go_to_the_work_directory(#[case] words: &str, #[case] file: &str) {
    assert_eq!(dump_options(&format!("dump -t 1 {words}")).log.file, Some(PathBuf::from(file)));
}

#[test]
fn a_log_can_carry_our_pid() {
    let file = dump_options("dump -t 1 -o x.log --log-pid").log.file.unwrap();
    assert_eq!(file, PathBuf::from(format!("./x.log.{}", std::process::id())));
}

#[test]
fn the_last_word_counts() {
    assert_eq!(dump_options("dump -t 1 -t 2 -D a -D b").images_dir, PathBuf::from("b"));
    assert!(!dump_options("dump -t 1 -j --no-shell-job").shell_job);
    assert!(dump_options("dump -t 1 --no-shell-job -j").shell_job);
    assert_eq!(dump_options("-D dir dump -t 1").images_dir, PathBuf::from("dir"));
    assert!(!dump_options("dump -t 1 --tcp-established --no-tcp-established").shell_job);
}

#[rstest]
#[case("check", CheckScope::Basic)]
#[case("check --extra", CheckScope::Extra)]
#[case("check --experimental", CheckScope::Experimental)]
#[case("check --all", CheckScope::All)]
#[case("check --feature list", CheckScope::List)]
fn checks_have_scopes(#[case] line: &str, #[case] scope: CheckScope) {
    assert_eq!(
        parse_line(line).unwrap(),
        Invocation::Check(CheckOptions { scope, ..CheckOptions::default() })
    );
}

#[rstest]
#[case("--version")]
#[case("-V")]
fn the_version_comes_as_callers_compare_it(#[case] line: &str) {
    let Ok(Invocation::Print(text)) = parse_line(line) else { panic!("no text") };
    assert!(text.starts_with("Version: 4.2\nstasis 0.1.0"), "{text}");
}

#[test]
fn the_name_we_are_called_by_does_not_matter() {
    let words = ["criu", "dump", "-t", "7"].map(OsString::from);
    assert!(matches!(parse(words, &Sources::default()), Ok(Invocation::Dump(_))));
}

#[rstest]
#[case("dump", "`dump` needs --tree PID")]
#[case("dump -t", "--tree <PID> needs a value")]
#[case("dump -t x", "\"x\" cannot be the value of --tree <PID>: invalid digit found in string")]
#[case("dump -t 0", "\"0\" cannot be the value of --tree <PID>: 0 is not in 1..=2147483647")]
#[case("dump -t 1 --leave-runing", "`dump` has no option --leave-runing; the nearest is --leave-running")]
#[case("dump -t 1 --qqq=5", "`dump` has no option --qqq")]
#[case("dump -t 1 -Z", "`dump` has no option -Z")]
#[case("dump -t 1 -R -s", "--leave-running and --leave-stopped cannot be together")]
#[case("dump -t 1 --shell-job=5", "--shell-job takes no value")]
#[case("dump -t 1 stray", "`dump` does not know what to do with \"stray\"")]
#[case("dump -t 1 -vx", "\"x\" cannot be the value of --verbosity[=<LEVEL>]: levels go from 0 to 4")]
#[case("dmp -t 1", "there is no command \"dmp\"; the nearest is dump")]
#[case("restore -S", "--restore-sibling works only with --restore-detached")]
#[case("restore -- sh", "a command behind -- works only with --exec-cmd")]
#[case("restore -t 5", "`restore` has no option -t")]
#[case("check --feature kcmp_epol", "there is no feature \"kcmp_epol\"; the nearest is kcmp_epoll")]
#[case("-D x", "no command given; `stasis --help` lists them")]
fn a_mistake_is_one_sentence(#[case] line: &str, #[case] sentence: &str) {
    assert_eq!(refusal(line), (sentence.to_owned(), 2));
}

#[rstest]
#[case("dump -t 1 --auto-dedup", "--auto-dedup is not implemented yet")]
#[case(
    "dump -t 1 --auto-dedup --stream -l --cpu-cap --tls --shell-job --ghost-limit 1M",
    "--auto-dedup, --tls and --stream are not implemented yet"
)]
#[case("dump -t 1 --external dev[x]:y", "--external dev[x]:y is not implemented yet")]
#[case("restore --exec-cmd -- sh -c x", "--exec-cmd is not implemented yet")]
#[case("dump --unprivileged -t 1", "--unprivileged is not implemented yet")]
#[case("swrk 3", "`swrk` is not implemented yet")]
#[case("pre-dump -t 1", "`pre-dump` is not implemented yet")]
fn what_is_missing_is_refused_by_name(#[case] line: &str, #[case] sentence: &str) {
    assert_eq!(refusal(line), (sentence.to_owned(), 3));
}

/// What LXC really passes: all of it must parse, so that only the missing parts are refused.
#[rstest]
#[case(
    "dump --tcp-established --file-locks --link-remap --manage-cgroups=full --ext-mount-map auto \
     --enable-external-sharing --enable-external-masters --enable-fs hugetlbfs --enable-fs tracefs -D /d \
     -o /d/dump.log --cgroup-root name=systemd:/x -v4 --action-script /s --ext-mount-map /m:m -t 17 \
     --skip-in-flight --freeze-cgroup /sys/fs/cgroup/x --external tty[1:2] --prev-images-dir ../x --track-mem \
     --page-server --address 127.0.0.1 --port 1 --force-irmap --ghost-limit 256M --leave-running"
)]
#[case(
    "restore --tcp-established --file-locks --link-remap --manage-cgroups=full --ext-mount-map auto \
     --enable-external-sharing --enable-external-masters --enable-fs hugetlbfs -D /d -o /d/restore.log --root /r \
     --restore-detached --restore-sibling --inherit-fd fd[3]:tty[1:2] --lsm-profile apparmor:x \
     --external veth[eth0]:v@br"
)]
#[case(
    "restore --ext-mount-map auto -D /d --cgroup-root cpu:/x --root /r --restore-detached --restore-sibling \
     --ext-mount-map console: --external console: --lsm-profile apparmor:x"
)]
#[case(
    "dump --tree 1 --leave-stopped --empty-ns net --cpu-cap --file-validation filesize --stream --tcp-close"
)]
#[case(
    "restore -W . --shell-job --action-script x -D d -v1 --inherit-fd fd[3]:/x --exec-cmd -- self restorewait"
)]
fn what_callers_pass_is_understood(#[case] line: &str) {
    assert_eq!(refusal(line).1, 3);
}

#[test]
fn configuration_comes_before_the_command_line() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        fs::write(&path, text).unwrap();
        path
    };
    let first =
        file("default.conf", "images-dir /one\nwork-dir /w\nlog-file \"a b\"\nrestore-detached\nshell-job\n");
    let named = file("env.conf", "images-dir /two\ntimeout 5\n");
    let extra = file("my.conf", "images-dir /three\nno-shell-job\nverbosity 4\n");
    let sources = Sources { defaults: vec![first], named: Some(named) };
    let options = |words: &str| {
        let words =
            ["stasis", "dump", "-t", "1"].into_iter().chain(words.split_whitespace()).map(OsString::from);
        match parse(words, &sources) {
            Ok(Invocation::Dump(options)) => options,
            other => panic!("{other:?}"),
        }
    };
    let plain = options("");
    assert_eq!((plain.images_dir, plain.timeout.0), ("/two".into(), Duration::from_secs(5)));
    assert_eq!((plain.shell_job, plain.log.file), (true, Some("/w/a b".into())));
    let with_extra = options(&format!("--config {}", extra.display()));
    assert_eq!((with_extra.images_dir, with_extra.shell_job), ("/three".into(), false));
    assert_eq!(with_extra.log.level, LogLevel::Debug);
    assert_eq!(options("-D /four").images_dir, PathBuf::from("/four"));
    assert!(!options("--no-default-config").shell_job);
}

#[rstest]
#[case("# x\n\nleave-runing", "line 3: there is no option \"leave-runing\"; the nearest is leave-running", 2)]
#[case(
    "timeout soon",
    "line 1: \"soon\" cannot be the value of --timeout <SECONDS>: invalid digit found in string",
    2
)]
#[case("timeout", "line 1: \"timeout\" needs a value", 2)]
#[case("shell-job yes", "line 1: \"shell-job\" takes no value", 2)]
#[case("--shell-job", "line 1: option names stand without dashes here, so write shell-job", 2)]
fn a_mistake_in_a_file_comes_with_its_place(#[case] text: &str, #[case] sentence: &str, #[case] code: u8) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.conf");
    fs::write(&path, text).unwrap();
    let sources = Sources { defaults: Vec::new(), named: Some(path.clone()) };
    let failure = parse(["stasis", "dump", "-t", "1"].map(OsString::from), &sources).unwrap_err();
    assert_eq!((failure.to_string(), failure.exit_code()), (format!("{}, {sentence}", path.display()), code));
}

#[test]
fn a_directory_that_cannot_be_used_is_reported_before_anything_is_touched() {
    let options = DumpOptions { tree: 1, images_dir: "/nonexistent".into(), ..DumpOptions::default() };
    let failure = run(&Invocation::Dump(options)).unwrap_err();
    let text = "images directory /nonexistent: stat: No such file or directory (ENOENT)";
    assert_eq!((failure.to_string().as_str(), failure.exit_code()), (text, 4));
    let options = RestoreOptions { images_dir: "/dev/null".into(), ..RestoreOptions::default() };
    let failure = run(&Invocation::Restore(options)).unwrap_err();
    assert_eq!(failure.to_string(), "images directory /dev/null: stat: Not a directory (ENOTDIR)");
}

#[rstest]
#[case("--help", "program")]
#[case("dump -h", "dump_short")]
#[case("dump --help", "dump")]
#[case("restore -h", "restore_short")]
#[case("check --help", "check")]
fn help_texts(#[case] line: &str, #[case] name: &str) {
    let Ok(Invocation::Print(text)) = parse_line(line) else { panic!("no text") };
    insta::assert_snapshot!(name, text);
}
