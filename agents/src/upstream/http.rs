//! One HTTP/1.1 request over one connection of its own.
//!
//! A connection that is closed is how every such server learns that an answer is not wanted any more, so
//! each request has its own and dropping its reply closes it. A pool would save a handshake on the same
//! machine, and could hand out a connection that the server is just about to close.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue, USER_AGENT};
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto};

/// For the connection alone: a server on this machine takes milliseconds, one across the world a second.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// Most of a reply that is read whole: a list of models, an error. Bytes.
pub(super) const MAX_WHOLE: usize = 256 * 1024;

/// Where a server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    tls: bool,
    host: String,
    port: u16,
    /// Without a slash at its end; may be empty.
    path: String,
}

/// Why an address is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadEndpoint {
    #[error("`{0}` is no address; write it like http://127.0.0.1:8080/v1")]
    NotOne(String),
    #[error("keys do not belong into an address: name a file with `api_key_file`")]
    HasKey,
}

impl std::str::FromStr for Endpoint {
    type Err = BadEndpoint;

    fn from_str(text: &str) -> Result<Self, BadEndpoint> {
        // What may be a key is not repeated, and so never in a log.
        if text.contains('@') || text.contains('?') {
            return Err(BadEndpoint::HasKey);
        }
        let not_one = || BadEndpoint::NotOne(text.to_owned());
        let uri: Uri = text.parse().map_err(|_| not_one())?;
        let tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(not_one()),
        };
        let host = uri
            .host()
            .filter(|host| !host.is_empty())
            .ok_or_else(not_one)?;
        let port = uri.port_u16();
        let beyond_host = uri.authority().map_or("", |a| &a.as_str()[host.len()..]);
        if port.is_none() && !beyond_host.is_empty() {
            return Err(not_one());
        }
        Ok(Self {
            tls,
            host: host.to_owned(),
            port: port.unwrap_or(if tls { 443 } else { 80 }),
            path: uri.path().trim_end_matches('/').to_owned(),
        })
    }
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        write!(f, "{scheme}://{}:{}{}", self.host, self.port, self.path)
    }
}

impl Endpoint {
    /// Whether what is sent there can be read on the way.
    pub(crate) fn is_readable_on_the_way(&self) -> bool {
        let host = self.bare_host();
        let here = host
            .parse()
            .is_ok_and(|ip: std::net::IpAddr| ip.is_loopback());
        !self.tls && !here && host != "localhost"
    }

    /// Without the brackets of an IPv6 address.
    fn bare_host(&self) -> &str {
        self.host.trim_start_matches('[').trim_end_matches(']')
    }
}

/// A key that is sent to a server and shown to nobody.
#[derive(Clone)]
pub(crate) struct ApiKey(HeaderValue);

impl ApiKey {
    /// `None` if the text cannot be in a header.
    pub(crate) fn new(text: &str) -> Option<Self> {
        if text.is_empty() {
            return None;
        }
        let mut value = HeaderValue::from_str(&format!("Bearer {text}")).ok()?;
        value.set_sensitive(true);
        Some(Self(value))
    }
}

impl std::fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ApiKey")
    }
}

/// Why there is no reply.
#[derive(Debug, thiserror::Error)]
pub(super) enum HttpError {
    /// Nobody there.
    #[error("cannot connect to {0}: {1}")]
    Connect(String, String),
    /// It broke.
    #[error("the connection to the server broke: {0}")]
    Broken(String),
}

/// Sends requests to one server.
#[derive(Debug, Clone)]
pub(super) struct Client {
    endpoint: Endpoint,
    key: Option<ApiKey>,
    tls: Option<Arc<ClientConfig>>,
}

/// The head of a reply, and its body as it comes. The connection closes when it is dropped.
pub(super) struct Reply {
    response: Response<Incoming>,
    /// Moves the bytes; ends with this.
    _connection: JoinSet<()>,
}

impl Client {
    pub(super) fn new(endpoint: Endpoint, key: Option<ApiKey>) -> Self {
        let tls = endpoint.tls.then(tls_config);
        Self { endpoint, key, tls }
    }

    /// Asks for `path` below the endpoint's; with a body of JSON it is a POST.
    pub(super) async fn send(&self, path: &str, body: Option<Vec<u8>>) -> Result<Reply, HttpError> {
        let connect = timeout(CONNECT_WITHIN, self.connect()).await;
        let (mut sender, connection) = match connect {
            Ok(connected) => connected.map_err(|why| self.cannot_connect(&why))?,
            Err(_) => return Err(self.cannot_connect("it does not answer")),
        };
        let request = self.request(path, body)?;
        let response = sender.send_request(request).await.map_err(broken)?;
        Ok(Reply {
            response,
            _connection: connection,
        })
    }

    fn request(
        &self,
        path: &str,
        body: Option<Vec<u8>>,
    ) -> Result<Request<Full<Bytes>>, HttpError> {
        let Endpoint { host, port, .. } = &self.endpoint;
        let method = if body.is_some() {
            Method::POST
        } else {
            Method::GET
        };
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.endpoint.path))
            .header(HOST, format!("{host}:{port}"))
            .header(
                USER_AGENT,
                concat!("moe2-agent/", env!("CARGO_PKG_VERSION")),
            )
            .header(ACCEPT, "text/event-stream, application/json");
        if let Some(ApiKey(key)) = &self.key {
            request = request.header(AUTHORIZATION, key);
        }
        if body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let body = Full::new(Bytes::from(body.unwrap_or_default()));
        request
            .body(body)
            .map_err(|error| HttpError::Broken(error.to_string()))
    }

    async fn connect(&self) -> Result<(http1::SendRequest<Full<Bytes>>, JoinSet<()>), String> {
        let Endpoint { port, .. } = self.endpoint;
        let host = self.endpoint.bare_host();
        let tcp = TcpStream::connect((host, port))
            .await
            .map_err(|e| e.to_string())?;
        // Tokens are small, and each is wanted at once.
        tcp.set_nodelay(true).map_err(|e| e.to_string())?;
        match &self.tls {
            None => handshake(TokioIo::new(tcp)).await,
            Some(config) => {
                let name = ServerName::try_from(host.to_owned()).map_err(|e| e.to_string())?;
                let connector = TlsConnector::from(Arc::clone(config));
                let tls = connector
                    .connect(name, tcp)
                    .await
                    .map_err(|e| e.to_string())?;
                handshake(TokioIo::new(tls)).await
            }
        }
    }

    fn cannot_connect(&self, why: &str) -> HttpError {
        HttpError::Connect(self.endpoint.to_string(), why.to_owned())
    }
}

async fn handshake<T>(io: T) -> Result<(http1::SendRequest<Full<Bytes>>, JoinSet<()>), String>
where
    T: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let (sender, connection) = http1::handshake(io).await.map_err(|e| e.to_string())?;
    let mut running = JoinSet::new();
    running.spawn(async move {
        // Its error is the body's, too.
        let _ = connection.await;
    });
    Ok((sender, running))
}

/// Mozilla's root certificates; a server with a certificate of its own making is reached through a proxy.
fn tls_config() -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    let provider = Arc::new(crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring has the cipher suites of every version")
        .with_root_certificates(roots)
        .with_no_client_auth();
    Arc::new(config)
}

impl Reply {
    pub(super) fn status(&self) -> StatusCode {
        self.response.status()
    }

    /// Whether its body is said to be of this type, parameters aside.
    pub(super) fn is_of_type(&self, wanted: &str) -> bool {
        let said = self.content_type();
        let essence = said.split(';').next().unwrap_or_default().trim();
        essence.eq_ignore_ascii_case(wanted)
    }

    pub(super) fn content_type(&self) -> &str {
        let said = self.response.headers().get(CONTENT_TYPE);
        said.and_then(|said| said.to_str().ok()).unwrap_or_default()
    }

    /// The next bytes of the body; `None` at its end.
    pub(super) async fn next_bytes(&mut self) -> Result<Option<Bytes>, HttpError> {
        loop {
            match self.response.body_mut().frame().await {
                None => return Ok(None),
                Some(Err(error)) => return Err(broken(error)),
                Some(Ok(frame)) => {
                    if let Ok(bytes) = frame.into_data() {
                        return Ok(Some(bytes));
                    }
                }
            }
        }
    }

    /// The whole body, up to [`MAX_WHOLE`].
    pub(super) async fn whole(&mut self) -> Result<Bytes, HttpError> {
        let body = Limited::new(self.response.body_mut(), MAX_WHOLE)
            .collect()
            .await;
        let body = body.map_err(|error| HttpError::Broken(error.to_string()))?;
        Ok(body.to_bytes())
    }
}

/// With its cause, which says more than itself.
fn broken(error: hyper::Error) -> HttpError {
    let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}"));
    HttpError::Broken(format!("{error}{}", cause.unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_and_written() {
        for (text, written) in [
            ("http://127.0.0.1:8080/v1", "http://127.0.0.1:8080/v1"),
            ("http://127.0.0.1:8080/v1/", "http://127.0.0.1:8080/v1"),
            (
                "https://example.com/api/v1",
                "https://example.com:443/api/v1",
            ),
            ("http://[::1]:11434", "http://[::1]:11434"),
        ] {
            let endpoint: Endpoint = text.parse().expect("it is sound");
            assert_eq!(endpoint.to_string(), written);
        }
        for text in [
            "",
            "127.0.0.1:8080",
            "ftp://x/v1",
            "http:///v1",
            "http://x:99999/v1",
            "/v1",
        ] {
            assert_eq!(
                text.parse::<Endpoint>(),
                Err(BadEndpoint::NotOne(text.to_owned()))
            );
        }
    }

    #[test]
    fn a_key_in_an_address_is_refused_and_not_repeated() {
        for text in ["http://me:secret@x/v1", "http://x/v1?key=secret"] {
            let error = text.parse::<Endpoint>().expect_err("it has a key");
            assert_eq!(error, BadEndpoint::HasKey);
            assert!(!error.to_string().contains("secret"));
        }
        let key = ApiKey::new("secret").expect("it fits a header");
        assert!(!format!("{key:?}").contains("secret"));
    }

    #[test]
    fn only_what_stays_here_or_is_encrypted_cannot_be_read() {
        let readable = |text: &str| {
            let endpoint: Endpoint = text.parse().expect("it is sound");
            endpoint.is_readable_on_the_way()
        };
        assert!(readable("http://10.0.0.1/v1") && readable("http://gpu-box:80/v1"));
        assert!(!readable("https://10.0.0.1/v1") && !readable("http://127.0.0.2/v1"));
        assert!(!readable("http://[::1]:80/v1") && !readable("http://localhost/v1"));
    }
}
