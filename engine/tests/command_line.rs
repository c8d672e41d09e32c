//! The program from outside: what goes to which stream, and exit codes.

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::process::CommandExt as _;
    use std::process::{Command, Output, Stdio};

    fn stasis(args: &[&str]) -> Output {
        // No configuration of the machine's.
        let mut command = Command::new(env!("CARGO_BIN_EXE_stasis"));
        command
            .args(args)
            .env_remove("HOME")
            .env_remove("CRIU_CONFIG_FILE")
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    fn text(bytes: &[u8]) -> &str {
        str::from_utf8(bytes).unwrap()
    }

    #[test]
    fn the_version_is_on_standard_output_also_as_criu() {
        let output =
            Command::new(env!("CARGO_BIN_EXE_stasis")).arg0("criu").arg("--version").output().unwrap();
        assert_eq!(text(&output.stdout).lines().next(), Some("Version: 4.2"));
        assert_eq!((text(&output.stderr), output.status.code()), ("", Some(0)));
    }

    #[test]
    fn a_wrong_command_line_is_one_sentence_on_standard_error() {
        let output = stasis(&["dump", "--tre", "5"]);
        assert_eq!(text(&output.stderr), "error: `dump` has no option --tre; the nearest is --tree\n");
        assert_eq!((text(&output.stdout), output.status.code()), ("", Some(2)));
    }

    #[test]
    fn what_is_refused_leaves_no_log() {
        let dir = tempfile::tempdir().unwrap();
        let output =
            stasis(&["dump", "-t", "1", "-D", dir.path().to_str().unwrap(), "-o", "x.log", "--lazy-pages"]);
        assert_eq!(text(&output.stderr), "error: --lazy-pages is not implemented yet\n");
        assert_eq!(output.status.code(), Some(3));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn an_error_is_in_the_log_too() {
        let dir = tempfile::tempdir().unwrap();
        let images = dir.path().to_str().unwrap();
        let output =
            stasis(&["restore", "-d", "-D", images, "-v4", "-o", "r.log", "--pidfile", "/nonexistent/pid"]);
        assert!(!output.status.success());
        let log = fs::read_to_string(dir.path().join("r.log")).unwrap();
        let first =
            text(&output.stderr).lines().next().and_then(|line| line.strip_prefix("error: ")).unwrap();
        assert!(
            log.lines().any(|line| line.contains(") Error (engine/src/") && line.ends_with(first)),
            "{log}"
        );
    }

    #[test]
    fn a_missing_log_directory_stops_before_anything_is_touched() {
        let dir = tempfile::tempdir().unwrap();
        let output =
            stasis(&["dump", "-t", "1", "-D", dir.path().to_str().unwrap(), "-o", "/nonexistent/x.log"]);
        let expected = "error: log file /nonexistent/x.log: open: No such file or directory (ENOENT)\n";
        assert_eq!((text(&output.stderr), output.status.code()), (expected, Some(4)));
    }

    #[test]
    fn features_are_listed_and_checked_by_exit_code() {
        assert!(
            text(&stasis(&["check", "--feature", "list"]).stdout)
                .lines()
                .any(|line| line == "mem_dirty_track")
        );
        assert_eq!(stasis(&["check", "--feature", "openat2"]).status.code(), Some(0));
        assert_eq!(stasis(&["check", "--feature", "opnat2"]).status.code(), Some(2));
    }
}
