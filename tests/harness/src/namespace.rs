//! Network namespaces, in which a test may break the network without harm.

use std::env;
use std::process::Command;

use crate::skip;

/// Set for a program that runs in a namespace of its own.
const MARK: &str = "IN_NAMESPACE";

/// Whether this program runs in a namespace that [`command`] made. Then its loopback interface works from now on.
pub fn is_inside() -> bool {
    let inside = env::var_os(MARK).is_some();
    if inside {
        run("ip link set lo up");
    }
    inside
}

/// A command that runs this program again, in network and mount namespaces of its own. If the system allows none, it says
/// that `what` is skipped, and returns `None`. In CI it panics instead.
#[track_caller]
pub fn command(what: &str) -> Option<Command> {
    let unshare = || {
        let mut command = Command::new("unshare");
        command.args(["--map-root-user", "--net", "--mount"]);
        command
    };
    let probe = unshare().args(["sh", "-c", "ip link set lo up && iptables --list"]).output();
    if !probe.as_ref().is_ok_and(|probe| probe.status.success()) {
        let why = probe.map_or_else(|error| error.to_string(), |it| String::from_utf8_lossy(&it.stderr).into_owned());
        skip(what, &format!("no namespaces with ip and iptables: {}", why.trim()));
        return None;
    }
    let mut command = unshare();
    command.arg(env::current_exe().expect("this program")).env(MARK, "1");
    Some(command)
}

/// Runs a command, which must succeed.
#[track_caller]
pub fn run(command: &str) {
    let mut words = command.split(' ');
    let status = Command::new(words.next().expect("a program")).args(words).status().expect("it starts");
    assert!(status.success(), "{command}");
}
