//! The documentation, compared with what the function does.

use std::collections::BTreeSet;
use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::SystemTime;

use harness::{
    EVENT, Function, Settings, Sqs, Step, UserHub, access_denied, answer, repository, sqs_event, unused_base_url,
};
use serde_json::{Map, Value};
use userhub_signin::config::VARIABLES;
use userhub_signin::error::Error;

/// The most words that README.md may have.
const README_WORDS_MAX: usize = 1500;

/// The text under a heading, up to the next one.
fn section(page: &str, heading: &str) -> String {
    let text = read(page);
    let section = text.split_once(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("no {heading:?} in {page}")).1;
    section.split("\n## ").next().unwrap_or_default().to_owned()
}

/// The names in the first column of the table under a heading.
fn documented(page: &str, heading: &str) -> BTreeSet<String> {
    let section = section(page, heading);
    let names: BTreeSet<_> = section
        .lines()
        .skip_while(|line| !line.starts_with('|'))
        .take_while(|line| line.starts_with('|'))
        .filter_map(|row| Some(row.strip_prefix("| `")?.split_once('`')?.0.to_owned()))
        .collect();
    assert!(!names.is_empty(), "no table under {heading:?} in {page}");
    names
}

fn read(path: &str) -> String {
    std::fs::read_to_string(repository(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn names<const N: usize>(names: [&str; N]) -> impl Iterator<Item = String> {
    names.into_iter().map(ToOwned::to_owned)
}

/// The fields of the lines that a function printed at its end.
fn fields(function: Function) -> impl Iterator<Item = Map<String, Value>> {
    function.end().into_iter().map(|line| serde_json::from_str(&line).unwrap())
}

/// One real line of every kind, and the fields in them.
#[test]
fn lists_the_fields_and_error_kinds_of_real_lines() {
    let mut lines = Vec::new();
    for reply in
        [answer(200, "{}"), answer(302, ""), answer(404, r#"{"code":"NOT_FOUND"}"#), answer(429, ""), answer(500, "")]
    {
        let userhub = UserHub::replying([reply]);
        lines.push(Function::reporting_to(&userhub).sign_in(EVENT).fields());
        userhub.only_report();
    }
    let hanging = UserHub::replying([vec![Step::Hang]]);
    let function = Function::reporting_to(&hanging);
    lines.extend((0..3).map(|_| function.sign_in(EVENT).fields())); // the second one opens the circuit
    hanging.reports();
    let unreachable = Settings::for_base_url(&unused_base_url()).start();
    lines.push(unreachable.sign_in(EVENT).fields());
    lines.push(unreachable.sign_in(b"{}").fields());
    let without_tls = TcpListener::bind("127.0.0.1:0").unwrap();
    let base_url = format!("https://{}", without_tls.local_addr().unwrap());
    thread::spawn(move || without_tls.accept().unwrap().0.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n"));
    lines.push(Settings::for_base_url(&base_url).start().sign_in(EVENT).fields());

    // The queue takes a report, refuses another, and gives a third to the queue's function.
    let queue = Sqs::replying([vec![Step::Accept], access_denied()]);
    let function = Settings::for_base_url("").via_queue(&queue).start();
    lines.extend((0..2).map(|_| function.sign_in(EVENT).fields()));
    assert_eq!(queue.messages().len(), 2);
    let userhub = UserHub::start();
    let function = Function::reporting_to(&userhub);
    let report = r#"{"version":1,"userName":"sample","type":"SIGNIN"}"#;
    function.report_batch(&sqs_event(&[("message-0", report, SystemTime::now())]));
    userhub.only_report();
    lines.extend(fields(function));

    let rows: BTreeSet<_> = lines.iter().flat_map(|fields| fields.keys().cloned()).collect();
    assert_eq!(documented("docs/operate.md", "## Log fields"), rows, "the fields of lines about reports");

    // Lines about something else, whose other fields the text names.
    let wrong = Settings::for_base_url("").unset("USERHUB_ADMIN_KEY").start();
    lines.push(wrong.sign_in(EVENT).fields());
    lines.extend(fields(wrong));
    let function = Function::reporting_to(&userhub);
    function.report_batch(&sqs_event(&[("message-0", "no report", SystemTime::now())]));
    lines.extend(fields(function));
    let mut others: BTreeSet<_> = lines.iter().flat_map(|fields| fields.keys().cloned()).collect();
    others.retain(|field| !rows.contains(field));
    assert_eq!(others, names(["messageId", "variable"]).collect());
    let text = section("docs/operate.md", "## Log fields");
    for field in others.into_iter().chain(names(["location", "lost_lines"])) {
        // Other tests have lines with the last two.
        assert!(text.contains(&format!("`{field}`")), "{field} is not described: {text}");
    }

    let mut kinds: BTreeSet<_> =
        lines.iter().filter_map(|fields| Some(fields.get("error_kind")?.as_str()?.to_owned())).collect();
    kinds.extend(names(["message", "panic", "queue", "tls"])); // other tests have their lines
    assert_eq!(names(Error::KINDS).collect::<BTreeSet<_>>(), kinds);
    assert_eq!(documented("docs/operate.md", "## Error kinds"), kinds);
}

/// The keys at an indentation in the part of the template between two lines.
fn template_keys(from: &str, to: &str, indentation: usize) -> BTreeSet<String> {
    let template = read("template.yaml");
    let part = template.split_once(from).unwrap().1.split_once(to).unwrap().0;
    let keys = part.lines().filter_map(|line| {
        let key = line.strip_prefix(&" ".repeat(indentation))?.split_once(':')?.0;
        key.starts_with(|c: char| c.is_ascii_uppercase()).then(|| key.to_owned())
    });
    keys.collect()
}

#[test]
fn lists_the_settings_that_the_function_reads() {
    let logging = names(["AWS_LAMBDA_LOG_FORMAT", "AWS_LAMBDA_LOG_LEVEL", "RUST_LOG"]);
    assert_eq!(documented("README.md", "## Settings"), names(VARIABLES).chain(logging).collect());
}

/// The settings without a parameter of their own: one that the template does not offer, and one that it finds out.
const NOT_ASKED_FOR: [&str; 2] = ["USERHUB_EXTRA_CA_CERTS", "USERHUB_QUEUE_URL"];

/// `USERHUB_ADMIN_KEY` is the parameter `AdminKey`. That it is the field `admin_key`, a test in config.rs checks.
#[test]
fn a_setting_has_the_same_name_everywhere() {
    let (template, readme) = (read("template.yaml"), read("README.md"));
    let set = template_keys("\n        Variables:\n", "\n\n", 10);
    assert_eq!(set, names(VARIABLES).filter(|name| name != NOT_ASKED_FOR[0]).collect());
    let mut parameters = BTreeSet::new();
    for variable in VARIABLES.into_iter().filter(|name| !NOT_ASKED_FOR.contains(name)) {
        let name = variable.strip_prefix("USERHUB_").or_else(|| variable.strip_prefix("AMAZON_COGNITO_")).unwrap();
        let parameter: String =
            name.split('_').flat_map(|word| [word[..1].to_owned(), word[1..].to_lowercase()]).collect();
        let value = template.split_once(&format!("\n          {variable}: ")).unwrap().1;
        let value: Vec<_> =
            value.lines().enumerate().take_while(|(i, line)| *i == 0 || line.starts_with("            ")).collect();
        assert!(value.iter().any(|(_, line)| line.contains(&format!("!Ref {parameter}"))), "{parameter}: {value:?}");
        assert!(readme.contains(&format!("\n| `{variable}` | `{parameter}` | ")), "{variable} in README.md");
        parameters.insert(parameter);
    }
    parameters.extend(documented("docs/deploy.md", "## Other parameters"));
    assert_eq!(parameters, template_keys("\nParameters:\n", "\nMetadata:\n", 2));
}

#[test]
fn the_readme_is_short() {
    let words = read("README.md").split_whitespace().count();
    assert!(words <= README_WORDS_MAX, "{words} words");
}

/// README.md, and the pages in the folders that hold some.
fn pages() -> Vec<PathBuf> {
    let folders = ["", "docs", "benches"].map(repository);
    let files = folders.iter().flat_map(|folder| folder.read_dir().unwrap().map(|file| file.unwrap().path()));
    let pages: Vec<_> = files.filter(|path| path.extension().is_some_and(|extension| extension == "md")).collect();
    assert!(pages.len() > 5, "{pages:?}");
    pages
}

/// The targets of the links in a page, those to other sites left out.
fn links(text: &str) -> impl Iterator<Item = &str> {
    let targets = text.split("](").skip(1).filter_map(|rest| Some(rest.split_once(')')?.0));
    targets.filter(|target| !target.contains("://"))
}

/// The anchors of a page's headings, as GitHub makes them.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = text.lines().filter_map(|line| Some(line.strip_prefix('#')?.trim_start_matches('#').trim()));
    let kept = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
    headings.map(|heading| heading.to_lowercase().chars().filter(kept).collect::<String>().replace(' ', "-")).collect()
}

#[test]
fn every_link_within_the_repository_resolves() {
    let mut count = 0;
    for page in pages() {
        let text = std::fs::read_to_string(&page).unwrap();
        for link in links(&text) {
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { page.clone() } else { page.parent().unwrap_or(Path::new("")).join(file) };
            assert!(target.exists(), "{link} in {}", page.display());
            if !anchor.is_empty() {
                let found = anchors(&std::fs::read_to_string(&target).unwrap());
                assert!(found.contains(anchor), "{link} in {}: {found:?}", page.display());
            }
            count += 1;
        }
    }
    assert!(count > 10, "{count} links");
}
