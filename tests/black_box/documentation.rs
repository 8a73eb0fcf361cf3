//! The README's tables, held to what the function does.

use std::collections::BTreeSet;
use std::path::Path;

use crate::support::{EVENT, Function, Settings, Step, UserHub, answer, unused_base_url};

/// The names in the first column of the README's table under a heading.
fn documented(heading: &str) -> BTreeSet<String> {
    let readme = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let section = readme.split_once(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("no heading {heading:?}")).1;
    let names: BTreeSet<_> = section
        .lines()
        .skip_while(|line| !line.starts_with('|'))
        .take_while(|line| line.starts_with('|'))
        .filter_map(|row| Some(row.strip_prefix("| `")?.split_once('`')?.0.to_owned()))
        .collect();
    assert!(!names.is_empty(), "no table under {heading:?}");
    names
}

/// One real line of every kind, and the fields in them.
#[test]
fn readme_lists_the_fields_and_error_kinds_of_real_lines() {
    let mut lines = Vec::new();
    for reply in [
        answer(200, "{}"),
        answer(302, ""),
        answer(404, r#"{"code":"NOT_FOUND"}"#),
        answer(429, ""),
        answer(500, ""),
        vec![Step::Hang],
    ] {
        let userhub = UserHub::replying([reply]);
        lines.push(Function::reporting_to(&userhub).sign_in(EVENT).fields());
        userhub.only_report();
    }
    let unreachable = Settings::for_base_url(&unused_base_url()).start();
    lines.push(unreachable.sign_in(EVENT).fields());
    lines.push(unreachable.sign_in(b"{}").fields());
    lines.push(Settings::for_base_url("").unset("USERHUB_ADMIN_KEY").start().sign_in(EVENT).fields());

    let fields: BTreeSet<_> = lines.iter().flat_map(|fields| fields.keys().cloned()).collect();
    assert_eq!(documented("### Fields"), fields);

    let mut kinds: BTreeSet<_> =
        lines.iter().filter_map(|fields| Some(fields.get("error_kind")?.as_str()?.to_owned())).collect();
    kinds.insert("panic".to_owned()); // seen in the test of panics
    assert_eq!(documented("### Kinds of errors"), kinds);
}

#[test]
fn readme_lists_the_settings_that_the_function_reads() {
    let config = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/config.rs")).unwrap();
    let read: BTreeSet<_> = config
        .split('"')
        .filter(|text| text.contains('_') && text.chars().all(|c| c.is_ascii_uppercase() || c == '_'))
        .map(ToOwned::to_owned)
        .collect();
    assert_eq!(read.len(), 4);
    let logging = ["AWS_LAMBDA_LOG_FORMAT", "AWS_LAMBDA_LOG_LEVEL", "RUST_LOG"].map(ToOwned::to_owned);
    assert_eq!(documented("## Settings"), read.into_iter().chain(logging).collect());
}
