//! Log lines, in the format and from the level that Lambda's settings ask for.

use std::time::Duration;

use harness::{EVENT, Function, Settings, Step, UserHub, answer};

#[test]
fn logs_flat_json() {
    let userhub = UserHub::start();
    let fields = Function::reporting_to(&userhub).sign_in(EVENT).fields();
    userhub.only_report();
    assert!(fields.values().all(|value| !value.is_object() && !value.is_array()), "{fields:?}");
    let timestamp = fields["timestamp"].as_str().unwrap();
    assert!(is_rfc_3339_utc(timestamp), "{timestamp}");
    assert_eq!(fields["level"], "INFO");
    assert_eq!(fields["message"], "sign-in reported to UserHub");
    assert_eq!(fields["requestId"], "00000000-0000-4000-8000-000000000000");
}

/// Such as `2026-01-31T23:59:59.123456Z`.
fn is_rfc_3339_utc(text: &str) -> bool {
    let shape: String = text.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    shape == "0000-00-00T00:00:00.000000Z"
}

#[test]
fn logs_how_long_the_report_took() {
    let reply = [vec![Step::Wait(Duration::from_millis(300))], answer(200, "{}")].concat();
    let userhub = UserHub::replying([reply]);
    let sign_in = Function::reporting_to(&userhub).sign_in(EVENT);
    userhub.only_report();
    let duration = Duration::from_millis(sign_in.fields()["duration_ms"].as_u64().unwrap());
    assert!(duration >= Duration::from_millis(300) && duration <= sign_in.elapsed, "{duration:?}");
}

#[test]
fn logs_text_unless_lambda_asks_for_json() {
    for format in ["Text", "", "other"] {
        let userhub = UserHub::start();
        let settings = Settings::for_base_url(&userhub.base_url()).set("AWS_LAMBDA_LOG_FORMAT", format);
        let line = settings.start().sign_in(EVENT).line;
        userhub.only_report();
        assert!(line.contains(r#" INFO sign-in reported to UserHub outcome="reported" status=200 "#), "{line}");
        assert!(!line.contains('\u{1b}'), "colours: {line:?}");
    }
}

#[test]
fn logs_from_the_level_that_lambda_sets() {
    for (level, rust_log, success, failure) in [
        ("", "", true, true),
        ("DEBUG", "", true, true),
        ("info", "", true, true),
        ("WARN", "", false, true),
        ("ERROR", "", false, true),
        ("FATAL", "", false, false),
        ("", "error", false, true),
        ("", "off", false, false),
        ("", "userhub_signin=warn", false, true),
        ("", "warn,userhub_signin=info", true, true),
        ("", "info,userhub_signin=off", false, false),
        ("INFO", "error", true, true),
        ("ERROR", "trace", false, true),
    ] {
        let userhub = UserHub::replying([answer(200, "{}"), answer(500, "{}")]);
        let function = Settings::for_base_url(&userhub.base_url())
            .set("AWS_LAMBDA_LOG_LEVEL", level)
            .set("RUST_LOG", rust_log)
            .start();
        function.return_event(EVENT);
        function.return_event(EVENT);
        assert_eq!(userhub.reports().len(), 2);
        let lines = function.end().concat();
        assert_eq!(lines.contains("sign-in reported"), success, "{level:?} {rust_log:?}: {lines}");
        assert_eq!(lines.contains("sign-in not reported"), failure, "{level:?} {rust_log:?}: {lines}");
    }
}

#[test]
fn warns_about_an_unknown_level() {
    for variable in ["AWS_LAMBDA_LOG_LEVEL", "RUST_LOG"] {
        let userhub = UserHub::start();
        let function = Settings::for_base_url(&userhub.base_url()).set(variable, "value=loud").start();
        function.sign_in(EVENT).assert_reported(200);
        userhub.only_report();
        let line = function.line_with(variable);
        assert!(line.contains(r#""level":"WARN""#) && line.contains("is not a log level: INFO is used"), "{line}");
        assert!(!line.contains("loud"), "{line}");
    }
}

#[test]
fn logs_nothing_of_the_event_at_any_level() {
    for (variable, value) in
        [("AWS_LAMBDA_LOG_LEVEL", "TRACE"), ("AWS_LAMBDA_LOG_LEVEL", "DEBUG"), ("RUST_LOG", "trace")]
    {
        let userhub = UserHub::replying([answer(200, "{}"), answer(404, r#"{"code":"NOT_FOUND"}"#)]);
        let function = Settings::for_base_url(&userhub.base_url()).set(variable, value).start();
        for _ in 0..2 {
            function.sign_in(EVENT); // checks the log for the user name and the key
        }
        assert_eq!(userhub.reports().len(), 2);
        let printed = function.end().concat();
        for word in ["sample.user", "userAttributes", "email", "eu-west-1_EXAMPLE00", "1example23456789"] {
            assert!(!printed.contains(word), "{word} in {printed}");
        }
    }
}

#[test]
fn a_line_stays_one_line_whatever_userhub_sends() {
    let reason = format!("HTTP/1.1 \u{1b}[31m{}\n{{\"level\":\"INFO\"}}\r\n\r\n", "x".repeat(500));
    for format in ["JSON", "Text"] {
        let userhub = UserHub::replying([vec![Step::Send(reason.clone().into_bytes()), Step::Hang]]);
        let function = Settings::for_base_url(&userhub.base_url()).set("AWS_LAMBDA_LOG_FORMAT", format).start();
        let line = function.sign_in(EVENT).line;
        assert_eq!(userhub.reports().len(), 1);
        assert_eq!(function.end(), std::slice::from_ref(&line));
        assert!(line.len() < 600 && !line.contains(char::is_control), "{line}");
    }
}

/// Standard output: whatever it is, no sign-in waits for it.
#[cfg(target_os = "linux")]
mod standard_output {
    use std::fs::File;
    use std::io::{self, ErrorKind, Read, Seek, Write};
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;
    use std::thread;
    use std::time::{Duration, Instant};

    use harness::{EVENT, Settings, UserHub};
    use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
    use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
    use serde_json::{Map, Value};

    /// Enough to fill a pipe or a socket several times.
    const SIGN_INS: usize = 2000;

    /// The end of standard output at which the test reads, without waiting.
    struct Reader(File);

    impl Reader {
        fn new(end: impl Into<OwnedFd>) -> Self {
            let end = end.into();
            fcntl_setfl(&end, OFlags::NONBLOCK).unwrap();
            Self(File::from(end))
        }

        /// All that was printed since the last call. Each line is complete.
        #[track_caller]
        fn lines(&mut self) -> Vec<String> {
            let mut bytes = Vec::new();
            let error = self.0.read_to_end(&mut bytes).expect_err("the function runs");
            assert_eq!(error.kind(), ErrorKind::WouldBlock);
            let text = String::from_utf8(bytes).unwrap();
            assert!(text.is_empty() || text.ends_with('\n'), "half a line: {:?}", text.lines().last());
            text.lines().map(ToOwned::to_owned).collect()
        }

        /// The next line that is printed.
        #[track_caller]
        fn line(&mut self) -> String {
            let start = Instant::now();
            loop {
                let lines = self.lines();
                if !lines.is_empty() {
                    assert_eq!(lines.len(), 1, "{lines:#?}");
                    return lines.concat();
                }
                assert!(start.elapsed() < Duration::from_secs(5), "no line");
                thread::sleep(Duration::from_millis(1));
            }
        }
    }

    /// Whoever reads the log learns how many lines are missing, and where.
    #[track_caller]
    fn counts_the_lines_that_nobody_reads(reader: impl Into<OwnedFd>, output: impl Into<OwnedFd>, format: &str) {
        let mut reader = Reader::new(reader);
        let userhub = UserHub::start();
        let function = Settings::for_base_url(&userhub.base_url())
            .set("AWS_LAMBDA_LOG_FORMAT", format)
            .printing_to(output)
            .start();
        for _ in 0..SIGN_INS {
            function.return_event(EVENT);
        }
        assert_eq!(userhub.reports().len(), SIGN_INS);
        let printed = reader.lines();
        assert!(printed.iter().all(|line| line.contains("sign-in reported") && !line.contains("lost_lines")));
        let lost = SIGN_INS - printed.len();
        assert!(lost > 0, "it takes all lines");

        function.return_event(EVENT);
        let line = reader.line();
        if format == "JSON" {
            let fields: Map<String, Value> = serde_json::from_str(&line).unwrap();
            assert_eq!(fields["lost_lines"], lost, "{line}");
            assert_eq!((&fields["outcome"], &fields["status"]), (&"reported".into(), &200.into()), "{line}");
            assert_eq!(line.matches("lost_lines").count(), 1, "{line}");
        } else {
            assert!(line.starts_with(&format!("lost_lines={lost} 20")), "{line}");
            assert!(line.contains(" INFO sign-in reported to UserHub outcome=\"reported\" status=200 "), "{line}");
        }
        function.return_event(EVENT);
        assert!(!reader.line().contains("lost_lines"), "counted twice");
        assert_eq!(userhub.reports().len(), 2);
    }

    #[test]
    fn a_pipe_that_nobody_reads_holds_no_sign_in() {
        for format in ["JSON", "Text"] {
            let (reader, output) = io::pipe().unwrap();
            counts_the_lines_that_nobody_reads(reader, output, format);
        }
    }

    #[test]
    fn a_socket_that_nobody_reads_holds_no_sign_in() {
        let (reader, output) = UnixStream::pair().unwrap();
        counts_the_lines_that_nobody_reads(reader, output, "JSON");
    }

    /// What is in a file stays there, and who else writes to it goes on behind the function's lines.
    #[test]
    fn a_file_keeps_what_others_wrote_to_it() {
        let userhub = UserHub::start();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"before\n").unwrap();
        let settings = Settings::for_base_url(&userhub.base_url()).printing_to(file.try_clone().unwrap());
        for _ in 0..2 {
            let function = settings.clone().start();
            for _ in 0..3 {
                function.return_event(EVENT);
            }
            function.end();
            file.write_all(b"after\n").unwrap();
        }
        assert_eq!(userhub.reports().len(), 6);
        let mut text = String::new();
        file.rewind().unwrap();
        file.read_to_string(&mut text).unwrap();
        let words: Vec<_> = text.lines().map(|line| if line.contains("reported") { "line" } else { line }).collect();
        assert_eq!(words, ["before", "line", "line", "line", "after", "line", "line", "line", "after"]);
    }

    /// A shell that shares the terminal would otherwise fail when it reads what somebody types.
    #[test]
    fn a_terminal_stays_as_it_is() {
        let userhub = UserHub::start();
        let controller = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&controller).unwrap();
        unlockpt(&controller).unwrap();
        let terminal = ioctl_tiocgptpeer(&controller, OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        let flags = fcntl_getfl(&terminal).unwrap();
        let function = Settings::for_base_url(&userhub.base_url()).printing_to(terminal.try_clone().unwrap()).start();
        function.return_event(EVENT);
        userhub.only_report();
        assert!(Reader::new(controller).line().contains("sign-in reported"));
        assert_eq!(fcntl_getfl(&terminal).unwrap(), flags);
        assert!(!flags.contains(OFlags::NONBLOCK));
    }

    #[test]
    fn returns_the_event_when_the_log_has_no_room() {
        let userhub = UserHub::start();
        let full = File::options().write(true).open("/dev/full").unwrap();
        let function = Settings::for_base_url(&userhub.base_url()).printing_to(full).start();
        for _ in 0..3 {
            function.return_event(EVENT);
            userhub.only_report();
        }
    }

    /// The function's first connection must not become its standard output.
    #[test]
    fn returns_the_event_when_standard_output_is_closed() {
        let userhub = UserHub::start();
        let settings = Settings::for_base_url(&userhub.base_url());
        for closed in [">&-", ">&- 2>&-", "<&- >&- 2>&-"] {
            let script = format!(r#"exec "$0" "$@" {closed}"#);
            let function = settings.clone().started_by(["sh", "-c", &script]).start();
            for _ in 0..3 {
                function.return_event(EVENT);
                userhub.only_report();
            }
            assert!(function.end().is_empty());
        }
    }

    #[test]
    fn returns_the_event_when_the_log_pipe_is_closed() {
        let userhub = UserHub::start();
        let function = Settings::for_base_url(&userhub.base_url()).with_closed_log().start();
        for _ in 0..3 {
            function.return_event(EVENT);
            userhub.only_report();
        }
    }
}
