//! From TOML tables to [`ModelSpec`]s.
//!
//! Values that later become paths or arguments of another program are accepted by alphabet, not by
//! a list of bad characters: what is not obviously harmless is refused.

use std::collections::HashSet;

use super::fields::Fields;
use super::{ChatStyle, ModelId, ModelSpec, Problem, Sha256, Source, WheelPart};

/// Largest declared file, bytes (16 TiB): catches a slipped digit, and keeps sums far from overflow.
const MAX_FILE_BYTES: u64 = 1 << 44;
/// Largest parameter count (10¹⁵): three orders of magnitude above today's largest models.
const MAX_PARAMETERS: u64 = 1_000_000_000_000_000;
/// Largest context, tokens: 100 times today's longest.
const MAX_CONTEXT: u64 = 1 << 30;

/// All models of a manifest, or all its mistakes.
pub(super) fn models(table: toml::Table) -> Result<Vec<ModelSpec>, Vec<Problem>> {
    let mut problems = Vec::new();
    let mut top = Fields::new(String::new(), table, &mut problems);
    let tables = top.tables("model");
    top.finish();
    let models: Vec<ModelSpec> = tables
        .into_iter()
        .enumerate()
        .filter_map(|(index, table)| model(index, table, &mut problems))
        .collect();
    unique(&models, "id", |model| model.id.as_str(), &mut problems);
    unique(&models, "file", |model| &model.file, &mut problems);
    if problems.is_empty() {
        Ok(models)
    } else {
        Err(problems)
    }
}

fn model(index: usize, table: toml::Table, problems: &mut Vec<Problem>) -> Option<ModelSpec> {
    let place = match table.get("id").and_then(toml::Value::as_str) {
        Some(id) => format!("model \"{id}\""),
        None => format!("model number {}", index + 1),
    };
    let mut fields = Fields::new(place, table, problems);
    let id = fields.parsed(
        "id",
        "1 to 64 lower-case letters, digits, dots, dashes or underscores",
        ModelId::new,
    );
    let file = fields.parsed("file", "a plain file name ending in .gguf", file_name);
    let sha256 = fields.parsed("sha256", "64 hexadecimal digits", Sha256::from_hex);
    let chat = fields.parsed("chat", "\"template\" or \"plain\"", chat_style);
    let family = fields.text("family");
    let parameters = fields.count("parameters", MAX_PARAMETERS);
    let quantisation = fields.text("quantisation");
    let licence = fields.text("licence");
    let bytes = fields.count("bytes", MAX_FILE_BYTES);
    let context = fields.count("context", MAX_CONTEXT);
    let strengths = fields.text("strengths");
    let sources = sources(&mut fields);
    fields.finish();
    Some(ModelSpec {
        id: id?,
        family,
        file: file?,
        parameters,
        quantisation,
        licence,
        bytes,
        sha256: sha256?,
        context: u32::try_from(context).ok()?,
        chat: chat?,
        strengths,
        sources,
    })
}

fn sources(model: &mut Fields<'_>) -> Vec<Source> {
    let tables = model.tables("source");
    let place = model.place().to_owned();
    let numbered = tables.into_iter().enumerate();
    numbered
        .filter_map(|(index, table)| {
            let place = format!("{place}, source {}", index + 1);
            source(Fields::new(place, table, model.problems()))
        })
        .collect()
}

fn source(mut fields: Fields<'_>) -> Option<Source> {
    let kind = fields.parsed("kind", "\"hub\" or \"wheels\"", |kind| {
        ["hub", "wheels"].into_iter().find(|known| *known == kind)
    });
    let source = match kind? {
        "hub" => {
            let repo = fields.parsed("repo", "owner/name", repository);
            let file = fields.parsed("file", "a relative path", relative_path);
            repo.zip(file)
                .map(|(repo, file)| Source::Hub { repo, file })
        }
        _ => {
            let tables = fields.tables("packages");
            if tables.is_empty() {
                fields.report("packages", "must name at least one wheel");
            }
            let place = fields.place().to_owned();
            let parts = tables.into_iter().enumerate().filter_map(|(index, table)| {
                let place = format!("{place}, package {}", index + 1);
                wheel(Fields::new(place, table, fields.problems()))
            });
            let packages = parts.collect();
            Some(Source::Wheels { packages })
        }
    };
    fields.finish();
    source
}

fn wheel(mut fields: Fields<'_>) -> Option<WheelPart> {
    let name = fields.parsed("name", "a package name", package_word);
    let version = fields.parsed("version", "an exact version", package_word);
    let member = fields.parsed("member", "a relative path inside the wheel", relative_path);
    fields.finish();
    Some(WheelPart {
        name: name?,
        version: version?,
        member: member?,
    })
}

fn unique<'a>(
    models: &'a [ModelSpec],
    key: &str,
    value: impl Fn(&'a ModelSpec) -> &'a str,
    problems: &mut Vec<Problem>,
) {
    let mut seen = HashSet::new();
    for model in models.iter().filter(|model| !seen.insert(value(model))) {
        let at = format!("model \"{}\", key \"{key}\"", model.id);
        problems.push(Problem {
            at,
            what: "is used by another model too".to_owned(),
        });
    }
}

fn chat_style(text: &str) -> Option<ChatStyle> {
    match text {
        "template" => Some(ChatStyle::Template),
        "plain" => Some(ChatStyle::Plain),
        _ => None,
    }
}

/// One path segment: starts with a letter or digit, so it is no option, no `..` and not hidden.
fn word(text: &str, extra: &str) -> bool {
    let known = |c: char| c.is_ascii_alphanumeric() || extra.contains(c);
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.len() <= 128
        && text.chars().all(known)
}

fn file_name(text: &str) -> Option<String> {
    (word(text, ".-_+") && text.ends_with(".gguf")).then(|| text.to_owned())
}

fn package_word(text: &str) -> Option<String> {
    word(text, ".-_+!").then(|| text.to_owned())
}

fn repository(text: &str) -> Option<String> {
    let two = text.split('/').count() == 2;
    (two && text.split('/').all(|part| word(part, ".-_"))).then(|| text.to_owned())
}

fn relative_path(text: &str) -> Option<String> {
    text.split('/')
        .all(|part| word(part, ".-_+"))
        .then(|| text.to_owned())
}
