//! The README's tables, held to what the function does.

use std::collections::BTreeSet;
use std::path::Path;

use crate::support::{EVENT, Function, Settings, Step, UserHub, answer, unused_base_url};

/// The names in the first column of the README's table under a heading.
fn documented(heading: &str) -> BTreeSet<String> {
    let readme = read("README.md");
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
    let userhub = UserHub::start();
    let after_response = Settings::for_base_url(&userhub.base_url()).set("USERHUB_REPORT", "after-response").start();
    lines.push(after_response.sign_in(EVENT).fields());
    userhub.only_report();
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

fn read(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// The environment variables that the function itself reads.
fn variables() -> BTreeSet<String> {
    let names: BTreeSet<_> = read("src/config.rs")
        .split('"')
        .filter(|text| text.contains('_') && text.chars().all(|c| c.is_ascii_uppercase() || c == '_'))
        .map(ToOwned::to_owned)
        .collect();
    assert_eq!(names.len(), 5);
    names
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
fn readme_lists_the_settings_that_the_function_reads() {
    let logging = ["AWS_LAMBDA_LOG_FORMAT", "AWS_LAMBDA_LOG_LEVEL", "RUST_LOG"].map(ToOwned::to_owned);
    assert_eq!(documented("## Settings"), variables().into_iter().chain(logging).collect());
}

/// `USERHUB_ADMIN_KEY`, `admin_key`, `AdminKey`: variable, field and parameter.
#[test]
fn a_setting_has_one_name_everywhere() {
    let (config, template, readme) = (read("src/config.rs"), read("template.yaml"), read("README.md"));
    let environment = template_keys("\n        Variables:\n", "\n\n", 10);
    assert_eq!(environment, variables());
    let mut parameters = BTreeSet::from(["LogLevel".to_owned()]);
    for variable in variables() {
        let name = variable.strip_prefix("USERHUB_").or_else(|| variable.strip_prefix("AMAZON_COGNITO_")).unwrap();
        let field = name.to_lowercase();
        let before_field = config.split_once(&format!("\n    pub {field}: ")).unwrap_or_else(|| panic!("{field}")).0;
        let doc_comment = before_field.rsplit_once("pub ").unwrap().1;
        assert!(doc_comment.contains(&format!("`{variable}`")), "{field}: {doc_comment}");

        let parameter: String =
            field.split('_').flat_map(|word| [word[..1].to_uppercase(), word[1..].to_owned()]).collect();
        let value = template.split_once(&format!("\n          {variable}: ")).unwrap().1;
        let value: Vec<_> =
            value.lines().enumerate().take_while(|(i, line)| *i == 0 || line.starts_with("            ")).collect();
        assert!(value.iter().any(|(_, line)| line.contains(&format!("!Ref {parameter}"))), "{parameter}: {value:?}");
        assert!(readme.contains(&format!("\n| `{variable}` | `{parameter}` | ")), "{variable} in the README");
        parameters.insert(parameter);
    }
    parameters.extend(documented("### Other parameters of the template"));
    assert_eq!(parameters, template_keys("\nParameters:\n", "\nMetadata:\n", 2));
}
