//! Pulls from local files and from a small HTTP server in this process.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::thread::JoinHandle;

use crate::{
    Cache, Manifest, ModelSpec, Origin, Progress, PullError, PullOptions, Silent, Status, pull,
};

const MODEL_BYTES: usize = 300_000;
/// SHA-256 of `content()`, computed with another implementation.
const MODEL_HASH: &str = "b1cf7538cf80d01efe3e0b8e45dc930048a138c7b6f8c4aff08f478e4695e631";

fn content() -> Vec<u8> {
    (0..MODEL_BYTES)
        .map(|index| u8::try_from(index * 7 % 251).unwrap())
        .collect()
}

struct Bench {
    directory: tempfile::TempDir,
    cache: Cache,
    spec: ModelSpec,
}

impl Bench {
    fn new(sources: &str) -> Self {
        let text = format!(
            "[[model]]\nid = \"m\"\nfamily = \"F\"\nfile = \"m.gguf\"\nparameters = 1\n\
             quantisation = \"Q\"\nlicence = \"L\"\nbytes = {MODEL_BYTES}\ncontext = 8\n\
             sha256 = \"{MODEL_HASH}\"\nchat = \"plain\"\nstrengths = \"s\"\n{sources}"
        );
        let spec = Manifest::parse(&text).unwrap().models()[0].clone();
        let directory = tempfile::tempdir().unwrap();
        Self {
            cache: Cache::at(directory.path().join("cache")),
            directory,
            spec,
        }
    }

    fn pull(&self, from: &str) -> Result<PathBuf, PullError> {
        let options = PullOptions {
            from: Some(Origin::parse(from)),
            hub_url: None,
        };
        pull(&self.spec, &self.cache, &options, &mut Silent)
    }

    fn local(&self, bytes: &[u8]) -> String {
        let path = self.directory.path().join("local.bin");
        fs::write(&path, bytes).unwrap();
        path.display().to_string()
    }

    fn beside(&self, extension: &str) -> PathBuf {
        let path = self.cache.path_of(&self.spec);
        path.with_file_name(format!("m.gguf.{extension}"))
    }
}

/// What the server does with one request.
enum Reply {
    /// Announces everything from the requested byte, sends so many bytes, hangs up.
    CutAfter(usize),
    /// Answers a range request as asked, anything else in full.
    Serve,
    /// Ignores `Range`.
    Whole,
    /// Sends without end and without announcing a length.
    Endless,
    /// Says that the range is out of bounds.
    OutOfBounds,
    /// Answers a range request with another range.
    OtherRange,
    /// This status and a short page.
    Page(&'static str),
}

/// Answers one request per reply; joining gives the request texts.
fn serve(replies: Vec<Reply>) -> (String, JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/m.gguf", listener.local_addr().unwrap());
    let answer_all = move || {
        let answer_one = |reply| {
            let (stream, _) = listener.accept().unwrap();
            answer(stream, &reply)
        };
        replies.into_iter().map(answer_one).collect()
    };
    (url, std::thread::spawn(answer_all))
}

fn answer(mut stream: TcpStream, reply: &Reply) -> String {
    let lines = BufReader::new(stream.try_clone().unwrap()).lines();
    let request: Vec<String> = lines
        .map(|line| line.unwrap())
        .take_while(|line| !line.is_empty())
        .collect();
    let request = request.join("\n").to_lowercase();
    let range = request
        .split("range: bytes=")
        .nth(1)
        .and_then(|rest| rest.split('-').next());
    let first: usize = range.map_or(0, |first| first.parse().unwrap());
    let (body, range) = (content(), range.is_some());
    let rest = &body[first.min(body.len())..];
    let partial = format!(
        "206 Partial Content\r\nContent-Range: bytes {first}-{}/{}",
        body.len() - 1,
        body.len()
    );
    let status = if range { partial } else { "200 OK".to_owned() };
    let (head, sent): (String, &[u8]) = match reply {
        Reply::CutAfter(bytes) => (head(&status, rest.len()), &rest[..*bytes]),
        Reply::Serve => (head(&status, rest.len()), rest),
        Reply::Whole => (head("200 OK", body.len()), &body),
        Reply::Endless => (
            "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n".to_owned(),
            &body,
        ),
        Reply::OtherRange => (
            head("206 Partial Content\r\nContent-Range: bytes 0-9/300000", 10),
            &body[..10],
        ),
        Reply::OutOfBounds => (head("416 Range Not Satisfiable", 0), &[]),
        Reply::Page(status) => (head(status, 4), b"page"),
    };
    // The client may hang up early: that is what some tests are about.
    stream.write_all(head.as_bytes()).ok();
    stream.write_all(sent).ok();
    while matches!(reply, Reply::Endless) && stream.write_all(&body).is_ok() {}
    request
}

fn head(status: &str, length: usize) -> String {
    format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n")
}

#[test]
fn a_dropped_download_goes_on_where_it_stopped() {
    let bench = Bench::new("");
    let (url, server) = serve(vec![Reply::CutAfter(100_000), Reply::Serve]);
    let error = bench.pull(&url).unwrap_err();
    assert!(
        matches!(error, PullError::Incomplete { have: 100_000, .. }),
        "{error}"
    );
    assert_eq!(
        bench.cache.status(&bench.spec),
        Status::Missing {
            partial_bytes: 100_000
        }
    );
    let path = bench.pull(&url).unwrap();
    assert_eq!(fs::read(path).unwrap(), content());
    assert!(server.join().unwrap()[1].contains("range: bytes=100000-"));
    assert_eq!(bench.cache.status(&bench.spec), Status::Present);
    assert!(!bench.beside("partial").exists());
}

#[test]
fn a_server_without_ranges_starts_over() {
    let bench = Bench::new("");
    let (url, server) = serve(vec![Reply::CutAfter(10), Reply::Whole]);
    bench.pull(&url).unwrap_err();
    assert_eq!(fs::read(bench.pull(&url).unwrap()).unwrap(), content());
    server.join().unwrap();
}

#[test]
fn a_range_out_of_bounds_starts_over() {
    let bench = Bench::new("");
    let (url, server) = serve(vec![Reply::CutAfter(10), Reply::OutOfBounds, Reply::Serve]);
    bench.pull(&url).unwrap_err();
    assert_eq!(fs::read(bench.pull(&url).unwrap()).unwrap(), content());
    assert!(!server.join().unwrap()[2].contains("range:"));
}

#[test]
fn another_range_than_asked_for_is_not_appended() {
    let bench = Bench::new("");
    let (url, server) = serve(vec![
        Reply::CutAfter(100_000),
        Reply::OtherRange,
        Reply::Serve,
    ]);
    bench.pull(&url).unwrap_err();
    assert_eq!(fs::read(bench.pull(&url).unwrap()).unwrap(), content());
    assert!(!server.join().unwrap()[2].contains("range:"));
}

#[test]
fn a_damaged_partial_file_costs_one_fresh_start_and_no_error() {
    let bench = Bench::new("");
    fs::create_dir_all(bench.beside("partial").parent().unwrap()).unwrap();
    fs::write(bench.beside("partial"), [9; 1000]).unwrap();
    let (url, server) = serve(vec![Reply::Serve, Reply::Serve]);
    assert_eq!(fs::read(bench.pull(&url).unwrap()).unwrap(), content());
    server.join().unwrap();
}

#[test]
fn wrong_bytes_are_removed_and_both_hashes_named() {
    let bench = Bench::new("");
    let mut wrong = content();
    wrong[5] ^= 1;
    let error = bench.pull(&bench.local(&wrong)).unwrap_err();
    assert!(matches!(error, PullError::WrongHash { .. }), "{error}");
    assert!(error.to_string().contains(MODEL_HASH), "{error}");
    assert_eq!(
        bench.cache.status(&bench.spec),
        Status::Missing { partial_bytes: 0 }
    );
    assert!(!bench.beside("ok").exists());
}

#[test]
fn a_source_larger_than_declared_is_cut_off() {
    let bench = Bench::new("");
    let (url, server) = serve(vec![Reply::Endless]);
    let error = bench.pull(&url).unwrap_err();
    assert!(matches!(error, PullError::TooLarge { .. }), "{error}");
    assert!(!bench.beside("partial").exists());
    server.join().unwrap();
}

#[test]
fn a_page_in_place_of_the_model_is_not_kept() {
    let bench = Bench::new("");
    let (url, server) = serve(vec![Reply::Page("200 OK"), Reply::Page("404 Not Found")]);
    let page = bench.pull(&url).unwrap_err();
    assert!(
        matches!(page, PullError::WrongSize { have: 4, .. }),
        "{page}"
    );
    let absent = bench.pull(&url).unwrap_err();
    assert!(
        matches!(absent, PullError::HttpStatus { status: 404, .. }),
        "{absent}"
    );
    server.join().unwrap();
}

#[test]
fn a_local_file_is_copied_checked_and_stamped() {
    let bench = Bench::new("");
    let path = bench.pull(&bench.local(&content())).unwrap();
    assert_eq!(path, bench.cache.path_of(&bench.spec));
    assert_eq!(bench.cache.status(&bench.spec), Status::Present);
    let short = Bench::new("");
    let error = short.pull(&short.local(&content()[1..])).unwrap_err();
    assert!(matches!(error, PullError::WrongSize { .. }), "{error}");
    let error = short.pull("/nonexistent/m.gguf").unwrap_err();
    assert!(matches!(error, PullError::Source { .. }), "{error}");
}

#[test]
fn a_file_that_is_there_and_sound_is_not_fetched_again() {
    let bench = Bench::new("");
    bench.pull(&bench.local(&content())).unwrap();
    bench.pull("/nonexistent/m.gguf").unwrap();
    // Without its stamp it is hashed again, and stamped.
    fs::remove_file(bench.beside("ok")).unwrap();
    assert_eq!(bench.cache.status(&bench.spec), Status::Unverified);
    bench.pull("/nonexistent/m.gguf").unwrap();
    assert_eq!(bench.cache.status(&bench.spec), Status::Present);
}

#[test]
fn a_file_damaged_in_the_cache_is_noticed_and_replaced() {
    let bench = Bench::new("");
    let source = bench.local(&content());
    let path = bench.pull(&source).unwrap();
    let mut damaged = content();
    damaged[100] ^= 1;
    fs::write(&path, &damaged).unwrap();
    // Same size, and the clock may be too coarse to show the write in the modification time.
    let stamp = fs::read_to_string(bench.beside("ok")).unwrap();
    fs::write(bench.beside("ok"), stamp.replace(char::is_whitespace, "-")).unwrap();
    assert_eq!(bench.cache.status(&bench.spec), Status::Unverified);
    let error = bench.cache.verify(&bench.spec, &mut Silent).unwrap_err();
    assert!(matches!(error, PullError::WrongHash { .. }), "{error}");
    fs::write(&path, &damaged[1..]).unwrap();
    assert!(matches!(
        bench.cache.status(&bench.spec),
        Status::Corrupt { .. }
    ));
    bench.pull(&source).unwrap();
    assert_eq!(fs::read(&path).unwrap(), content());
}

#[test]
fn a_cache_that_cannot_be_written_says_what_to_set() {
    let bench = Bench::new("");
    let source = bench.local(&content());
    // Below a plain file: refused whoever asks, where permissions would not stop root.
    let cache = Cache::at(&source);
    let options = PullOptions {
        from: Some(Origin::parse(&source)),
        hub_url: None,
    };
    let error = pull(&bench.spec, &cache, &options, &mut Silent).unwrap_err();
    assert!(
        matches!(error, PullError::CacheNotWritable { .. }),
        "{error}"
    );
    assert!(error.to_string().contains("MOE2_CACHE"), "{error}");
}

#[test]
fn a_full_disk_ends_the_pull_and_says_how_much_is_missing() {
    let bench = Bench::new("");
    fs::create_dir_all(bench.beside("partial").parent().unwrap()).unwrap();
    std::os::unix::fs::symlink("/dev/full", bench.beside("partial")).unwrap();
    let error = bench.pull(&bench.local(&content())).unwrap_err();
    assert!(
        matches!(
            error,
            PullError::DiskFull {
                missing_bytes: 300_000,
                ..
            }
        ),
        "{error}"
    );
    assert!(
        bench.beside("partial").is_symlink(),
        "what is there is kept"
    );
}

#[test]
fn a_model_that_no_disk_can_hold_is_refused_before_the_first_byte() {
    let mut bench = Bench::new("");
    bench.spec.bytes = 1 << 62;
    let error = bench.pull("/nonexistent/m.gguf").unwrap_err();
    assert!(matches!(error, PullError::DiskFull { .. }), "{error}");
    assert!(!bench.beside("partial").exists());
}

const TWO_HUBS: &str = "[[model.source]]\nkind = \"hub\"\nrepo = \"a/b\"\nfile = \"m.gguf\"\n\
                        [[model.source]]\nkind = \"hub\"\nrepo = \"c/d\"\nfile = \"m.gguf\"\n";

#[test]
fn sources_are_tried_in_order() {
    let bench = Bench::new(TWO_HUBS);
    let (url, server) = serve(vec![Reply::Page("404 Not Found"), Reply::Serve]);
    let hub_url = url.strip_suffix("m.gguf").map(str::to_owned);
    let options = PullOptions {
        from: None,
        hub_url,
    };
    let mut heard = Heard::default();
    pull(&bench.spec, &bench.cache, &options, &mut heard).unwrap();
    let requests = server.join().unwrap();
    assert!(
        requests[0].starts_with("get /a/b/resolve/main/m.gguf "),
        "{}",
        requests[0]
    );
    assert!(
        requests[1].starts_with("get /c/d/resolve/main/m.gguf "),
        "{}",
        requests[1]
    );
    assert!(heard.messages[0].contains("404"), "{:?}", heard.messages);
    // Download and hash, each from start to end.
    assert_eq!((heard.started, heard.finished), (2, 2));
    assert_eq!(heard.bytes, 2 * MODEL_BYTES as u64);
}

#[test]
fn without_a_working_source_each_one_is_listed_with_its_reason() {
    let bench = Bench::new(TWO_HUBS);
    let error = pull(
        &bench.spec,
        &bench.cache,
        &PullOptions::default(),
        &mut Silent,
    )
    .unwrap_err();
    let PullError::NoSource { attempts, .. } = &error else {
        panic!("{error}")
    };
    assert_eq!(attempts.len(), 2);
    for word in ["a/b", "c/d", "MOE2_HUB_URL", "--from"] {
        assert!(error.to_string().contains(word), "{error}");
    }
}

#[test]
fn two_pulls_at_once_fetch_once() {
    let bench = Bench::new("");
    let (url, server) = serve(vec![Reply::Serve]);
    std::thread::scope(|scope| {
        let pulls = [
            scope.spawn(|| bench.pull(&url)),
            scope.spawn(|| bench.pull(&url)),
        ];
        for pull in pulls {
            pull.join().unwrap().unwrap();
        }
    });
    assert_eq!(server.join().unwrap().len(), 1);
}

#[derive(Default)]
struct Heard {
    started: u32,
    finished: u32,
    bytes: u64,
    messages: Vec<String>,
}

impl Progress for Heard {
    fn start(&mut self, _total_bytes: u64, _what: &str) {
        self.started += 1;
    }
    fn advance(&mut self, bytes: u64) {
        self.bytes += bytes;
    }
    fn message(&mut self, text: &str) {
        self.messages.push(text.to_owned());
    }
    fn finish(&mut self) {
        self.finished += 1;
    }
}
