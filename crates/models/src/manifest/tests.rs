//! The shipped manifest, mistakes in manifests, and finding what a configuration names.

use std::collections::HashSet;

use crate::{Cache, ChatStyle, FindError, Manifest, ManifestError, Source, find_model};

const HASH: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

fn entry(id: &str, file: &str) -> String {
    format!(
        "[[model]]\nid = \"{id}\"\nfamily = \"F\"\nfile = \"{file}\"\nparameters = 10\n\
         quantisation = \"Q\"\nlicence = \"L\"\nbytes = 3\nsha256 = \"{HASH}\"\ncontext = 8\n\
         chat = \"plain\"\nstrengths = \"s\"\n"
    )
}

fn problems(text: &str) -> Vec<String> {
    match Manifest::parse(text) {
        Err(ManifestError::Invalid(problems)) => problems.iter().map(ToString::to_string).collect(),
        other => panic!("expected a list of mistakes, got {other:?}"),
    }
}

#[test]
fn the_shipped_manifest_lists_three_models_that_can_be_fetched_without_a_hub() {
    let manifest = Manifest::embedded();
    let ids: HashSet<&str> = manifest
        .models()
        .iter()
        .map(|model| model.id.as_str())
        .collect();
    let known = [
        "smollm2-135m-instruct",
        "gemma-3-270m",
        "qwen2.5-coder-0.5b-instruct",
    ];
    assert_eq!(ids, HashSet::from(known));
    for model in manifest.models() {
        let wheels = |source: &Source| matches!(source, Source::Wheels { .. });
        assert!(model.sources.iter().any(wheels), "{}", model.id);
    }
    assert_eq!(
        manifest.get("gemma-3-270m").map(|model| model.chat),
        Some(ChatStyle::Plain)
    );
    assert_eq!(manifest.get("absent"), None);
}

#[test]
fn all_mistakes_are_reported_at_once() {
    let text = entry("Upper", "../escape.gguf").replace("context = 8\n", "")
        + &entry("good", "good.gguf").replace("bytes", "byte")
        + "[[model.source]]\nkind = \"wheels\"\n\
           packages = [{ name = \"--index-url=x\", version = \"1\", member = \"/etc/passwd\" }]\n";
    let found = problems(&text).join("\n");
    for expected in [
        "model \"Upper\", key \"id\"",
        "model \"Upper\", key \"file\"",
        "model \"Upper\", key \"context\": is missing",
        "model \"good\", key \"bytes\": is missing",
        "unknown key; did you mean \"bytes\"?",
        "model \"good\", source 1, package 1, key \"name\"",
        "model \"good\", source 1, package 1, key \"member\"",
    ] {
        assert!(found.contains(expected), "{expected} is not in:\n{found}");
    }
}

#[test]
fn ids_and_files_are_unique() {
    let found = problems(&(entry("a", "a.gguf") + &entry("a", "a.gguf")));
    assert_eq!(found.len(), 2, "{found:?}");
}

#[test]
fn names_that_could_leave_the_cache_or_become_options_are_refused() {
    for file in [
        "..",
        "a/b.gguf",
        "-a.gguf",
        ".a.gguf",
        "a.gguf\\u0000",
        "a",
        "a b.gguf",
    ] {
        let found = problems(&entry("a", file));
        assert!(found[0].contains("key \"file\""), "{file}: {found:?}");
    }
    for member in ["../a", "/a", "a//b", "a/../b", "a/"] {
        let package = format!("{{ name = \"n\", version = \"1\", member = \"{member}\" }}");
        let source = format!("[[model.source]]\nkind = \"wheels\"\npackages = [{package}]\n");
        let found = problems(&(entry("a", "a.gguf") + &source));
        assert!(found[0].contains("key \"member\""), "{member}: {found:?}");
    }
}

#[test]
fn a_file_replaces_the_shipped_manifest() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("models.toml");
    std::fs::write(&path, entry("mine", "mine.gguf")).unwrap();
    let manifest = Manifest::load(Some(&path)).unwrap();
    assert_eq!(manifest.models().len(), 1);
    let absent = Manifest::load(Some(&directory.path().join("absent.toml"))).unwrap_err();
    assert!(absent.to_string().contains("absent.toml"), "{absent}");
    assert!(matches!(
        Manifest::parse("[[model"),
        Err(ManifestError::Syntax(_))
    ));
}

#[test]
fn a_configured_name_is_an_id_or_a_path() {
    let directory = tempfile::tempdir().unwrap();
    let cache = Cache::at(directory.path());
    let manifest = Manifest::embedded();
    let find = |name: &str| find_model(name, &manifest, &cache);

    let missing = find("gemma-3-270m").unwrap_err();
    assert!(matches!(missing, FindError::NotPulled { .. }), "{missing}");
    assert!(
        missing
            .to_string()
            .contains("moe2 models pull gemma-3-270m"),
        "{missing}"
    );
    let typo = find("gema-3-270m").unwrap_err();
    assert!(
        typo.to_string().contains("did you mean \"gemma-3-270m\""),
        "{typo}"
    );

    let path = directory.path().join("own.gguf");
    let name = path.to_str().unwrap();
    assert!(matches!(find(name).unwrap_err(), FindError::NoFile { .. }));
    std::fs::write(&path, "x").unwrap();
    let found = find(name).unwrap();
    assert_eq!((found.path.as_path(), found.spec), (path.as_path(), None));
    let folder = find(&format!("{}/", directory.path().display())).unwrap_err();
    assert!(matches!(folder, FindError::NotAFile { .. }), "{folder}");
}

#[test]
fn a_file_of_the_wrong_size_or_without_a_stamp_is_not_used() {
    let directory = tempfile::tempdir().unwrap();
    let cache = Cache::at(directory.path());
    let manifest = Manifest::parse(&entry("abc", "abc.gguf")).unwrap();
    let path = cache.path_of(&manifest.models()[0]);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    for (content, expected) in [("ab", "2 bytes instead of 3"), ("abc", "not been checked")] {
        std::fs::write(&path, content).unwrap();
        let error = find_model("abc", &manifest, &cache).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    }
}
