//! `/livez`, `/readyz` and `/metrics`.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::CONTENT_TYPE;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use shunt_api::report::Report;
use slog::{Logger, info, warn};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::install::Counts;
use crate::metrics::{self, Snapshot};
use crate::plugin::Plugin;
use crate::settings::Wanted;
use crate::state::State;

/// Connections at once; more wait.
const CONNECTIONS: usize = 16;

/// How long a request may take to come.
const PATIENCE: Duration = Duration::from_secs(5);

/// How soon again a port is tried that another process has: one that is being replaced keeps it for a while.
const AGAIN: Duration = Duration::from_secs(1);

/// What the plugin said is good for so long.
const REPORT_AGE: Duration = Duration::from_secs(5);

/// A pass that takes longer hangs.
const HANGS: Duration = Duration::from_mins(5);

/// What is known, for whoever asks.
#[derive(Debug)]
pub struct Shared {
    inner: Mutex<Known>,
    report: tokio::sync::Mutex<Option<(Instant, Report)>>,
}

#[derive(Debug)]
struct Known {
    state: State,
    counts: Counts,
    busy_since: Option<Instant>,
    plugin: Option<(Plugin, Wanted)>,
}

impl Shared {
    /// Nothing is known yet.
    pub fn new() -> Arc<Self> {
        let mut state = State::default();
        state.problems.push("nothing has been looked at yet".to_owned());
        let known = Known { state, counts: Counts::default(), busy_since: None, plugin: None };
        Arc::new(Self { inner: Mutex::new(known), report: tokio::sync::Mutex::new(None) })
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A pass begins.
    pub fn begins(&self) {
        self.known().busy_since = Some(Instant::now());
    }

    /// A pass has ended.
    pub fn ends(&self, state: &State, counts: Counts, plugin: Option<(Plugin, Wanted)>) {
        let mut known = self.known();
        known.state.clone_from(state);
        known.counts = counts;
        known.busy_since = None;
        if plugin.is_some() {
            known.plugin = plugin;
        }
    }

    fn hangs(&self) -> bool {
        self.known().busy_since.is_some_and(|since| since.elapsed() > HANGS)
    }

    /// What the plugin says, not asked more often than anybody needs.
    async fn report(&self) -> Option<Report> {
        let mut kept = self.report.lock().await;
        if let Some((_, report)) = kept.as_ref().filter(|(at, _)| at.elapsed() < REPORT_AGE) {
            return Some(report.clone());
        }
        let (plugin, wanted) = self.known().plugin.clone()?;
        *kept = plugin.report(&wanted).await.ok().map(|report| (Instant::now(), report));
        kept.as_ref().map(|(_, report)| report.clone())
    }

    async fn answer(&self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return Ok(plain(StatusCode::METHOD_NOT_ALLOWED, "only GET\n".to_owned()));
        }
        Ok(match request.uri().path() {
            "/livez" if self.hangs() => plain(StatusCode::INTERNAL_SERVER_ERROR, "a pass hangs\n".to_owned()),
            "/livez" => plain(StatusCode::OK, "alive\n".to_owned()),
            "/readyz" => {
                let known = self.known();
                let ready = known.state.ready;
                let code = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
                plain(code, known.state.text())
            }
            "/metrics" => {
                let report = self.report().await;
                let snapshot = {
                    let known = self.known();
                    Snapshot { state: known.state.clone(), counts: known.counts.clone(), report }
                };
                match metrics::text(snapshot) {
                    Ok(text) => typed(
                        StatusCode::OK,
                        "application/openmetrics-text; version=1.0.0; charset=utf-8",
                        text,
                    ),
                    Err(error) => plain(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
                }
            }
            _ => plain(StatusCode::NOT_FOUND, "/livez, /readyz or /metrics\n".to_owned()),
        })
    }
}

fn plain(code: StatusCode, text: String) -> Response<Full<Bytes>> {
    typed(code, "text/plain; charset=utf-8", text)
}

fn typed(code: StatusCode, kind: &'static str, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = code;
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(kind));
    response
}

/// Answers for as long as the process lives. That the port is taken is no reason not to install.
pub async fn serve(listen: SocketAddr, shared: Arc<Shared>, log: Logger) {
    let listener = bind(listen, &log).await;
    info!(log, "answering /livez, /readyz and /metrics"; "address" => listen.to_string());
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&room).acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(AGAIN).await;
            continue;
        };
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            let service = service_fn(|request| shared.answer(request));
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(PATIENCE)
                .keep_alive(false)
                .serve_connection(TokioIo::new(stream), service);
            // Whoever asked is gone, or spoke no HTTP.
            let _ended = tokio::time::timeout(PATIENCE * 6, connection).await;
            drop(place);
        });
    }
}

async fn bind(listen: SocketAddr, log: &Logger) -> TcpListener {
    let mut told = false;
    loop {
        match TcpListener::bind(listen).await {
            Ok(listener) => return listener,
            Err(error) if !told => {
                warn!(log, "cannot listen on {listen} yet (--listen): {error}"; "address" => listen.to_string());
                told = true;
            }
            Err(_) => {}
        }
        tokio::time::sleep(AGAIN).await;
    }
}
