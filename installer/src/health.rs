//! `/livez`, `/readyz` and `/metrics`.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
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
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::AbortHandle;

use crate::install::Counts;
use crate::metrics::{self, Snapshot};
use crate::plugin::Plugin;
use crate::settings::Wanted;
use crate::state::State;

/// Connections at once. One more waits until one of them has ended, or has been silent for [`SILENT`]: that one has to go.
const CONNECTIONS: usize = 16;

/// Who has not asked for anything in this time leaves when others wait.
const SILENT: Duration = Duration::from_millis(200);

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

/// Somebody who is connected.
#[derive(Debug)]
struct Caller {
    since: Instant,
    asked: Arc<AtomicBool>,
    task: AbortHandle,
}

/// Sends one away that is too silent, if there is no room for another. Returns how long to wait for room before it is called again.
fn make_room(callers: &mut VecDeque<Caller>, now: Instant) -> Duration {
    callers.retain(|caller| !caller.task.is_finished());
    if callers.len() < CONNECTIONS {
        return PATIENCE;
    }
    // The first of them has been so for longest.
    let silent = callers.iter().enumerate().find(|(_, caller)| !caller.asked.load(Ordering::Relaxed));
    let Some((index, caller)) = silent else { return PATIENCE };
    let left = SILENT.saturating_sub(now.saturating_duration_since(caller.since));
    if !left.is_zero() {
        return left;
    }
    caller.task.abort();
    callers.remove(index);
    PATIENCE
}

/// Waits for room. Else a handful of connections that say nothing would keep the kubelet's waiting until its patience ends, and that
/// restarts the installer.
async fn room_for_one(room: &Arc<Semaphore>, callers: &mut VecDeque<Caller>) -> Option<OwnedSemaphorePermit> {
    loop {
        let wait = make_room(callers, Instant::now());
        if let Ok(place) = tokio::time::timeout(wait, Arc::clone(room).acquire_owned()).await {
            return place.ok();
        }
    }
}

/// Answers for as long as the process lives. That the port is taken is no reason not to install.
pub async fn serve(listen: SocketAddr, shared: Arc<Shared>, log: Logger) {
    let listener = bind(listen, &log).await;
    info!(log, "answering /livez, /readyz and /metrics"; "address" => listen.to_string());
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    let mut callers = VecDeque::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(AGAIN).await;
            continue;
        };
        let Some(place) = room_for_one(&room, &mut callers).await else { return };
        let asked = Arc::new(AtomicBool::new(false));
        let answered = answer(stream, Arc::clone(&shared), Arc::clone(&asked), place);
        let task = tokio::spawn(answered).abort_handle();
        callers.push_back(Caller { since: Instant::now(), asked, task });
    }
}

/// Answers one request, if it comes.
async fn answer(stream: TcpStream, shared: Arc<Shared>, asked: Arc<AtomicBool>, place: OwnedSemaphorePermit) {
    let service = service_fn(|request| {
        asked.store(true, Ordering::Relaxed);
        shared.answer(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    // Whoever asked is gone, or spoke no HTTP.
    let _ended = tokio::time::timeout(PATIENCE * 6, connection).await;
    drop(place);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_silent_for_too_long_makes_room() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let start = Instant::now();
        let caller = |asked: bool| Caller {
            since: start,
            asked: Arc::new(AtomicBool::new(asked)),
            task: runtime.spawn(std::future::pending::<()>()).abort_handle(),
        };
        let mut callers: VecDeque<Caller> = (1..CONNECTIONS).map(|n| caller(n % 3 == 0)).collect();
        assert_eq!((make_room(&mut callers, start + PATIENCE), callers.len()), (PATIENCE, CONNECTIONS - 1));
        callers.push_front(caller(true));
        assert_eq!(
            (make_room(&mut callers, start + SILENT / 4), callers.len()),
            (SILENT / 4 * 3, CONNECTIONS)
        );
        assert_eq!((make_room(&mut callers, start + SILENT), callers.len()), (PATIENCE, CONNECTIONS - 1));
        let asked: Vec<bool> = callers.iter().map(|caller| caller.asked.load(Ordering::Relaxed)).collect();
        assert_eq!(asked[..3], [true, false, true], "the first has asked, the second was sent away");
        for caller in &callers {
            caller.asked.store(true, Ordering::Relaxed);
        }
        callers.push_back(caller(true));
        assert_eq!((make_room(&mut callers, start + PATIENCE), callers.len()), (PATIENCE, CONNECTIONS));
    }
}
