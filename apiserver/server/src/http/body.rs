//! Response bodies: whole, or a stream of chunks, either compressed when that is worth it.

use std::io::Write as _;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures::stream::{BoxStream, Stream, StreamExt as _};
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, VARY};
use http::{HeaderMap, HeaderValue, Response};
use http_body::{Frame, SizeHint};

use super::negotiate::header_text;

/// Bodies below this aren't compressed, as in kube-apiserver: on a fast network it costs more than it saves.
pub(crate) const GZIP_FROM: usize = 128 * 1024;
/// Lowest level: most of the gain at a fraction of the time.
const LEVEL: Compression = Compression::new(1);

/// Why a body ended early. The connection is cut, so that the client doesn't take a part for the whole.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct BodyError(String);

impl BodyError {
    pub(crate) fn new(error: &dyn std::fmt::Display) -> Self {
        Self(error.to_string())
    }
}

/// The body of every response.
pub struct Body(Inner);

enum Inner {
    Whole(Option<Bytes>),
    Stream(BoxStream<'static, Result<Bytes, BodyError>>),
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.0 {
            Inner::Whole(bytes) => f.debug_tuple("Whole").field(&bytes.as_ref().map(Bytes::len)).finish(),
            Inner::Stream(_) => f.write_str("Stream"),
        }
    }
}

impl Body {
    pub(crate) fn whole(bytes: impl Into<Bytes>) -> Self {
        Self(Inner::Whole(Some(bytes.into())))
    }

    pub(crate) fn stream(chunks: impl Stream<Item = Result<Bytes, BodyError>> + Send + 'static) -> Self {
        Self(Inner::Stream(chunks.boxed()))
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut self.0 {
            Inner::Whole(bytes) => {
                Poll::Ready(bytes.take().filter(|bytes| !bytes.is_empty()).map(|bytes| Ok(Frame::data(bytes))))
            }
            Inner::Stream(chunks) => chunks.poll_next_unpin(cx).map(|chunk| chunk.map(|chunk| chunk.map(Frame::data))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Inner::Whole(bytes) => bytes.as_ref().is_none_or(Bytes::is_empty),
            Inner::Stream(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Inner::Whole(bytes) => {
                let length = bytes.as_ref().map_or(0, Bytes::len);
                SizeHint::with_exact(u64::try_from(length).unwrap_or(u64::MAX))
            }
            Inner::Stream(_) => SizeHint::default(),
        }
    }
}

/// Whether the client takes gzip.
pub(crate) fn takes_gzip(headers: &HeaderMap) -> bool {
    header_text(headers, ACCEPT_ENCODING).split(',').any(|coding| {
        let mut parts = coding.split(';').map(str::trim);
        parts.next() == Some("gzip") && !parts.any(|quality| quality == "q=0")
    })
}

fn mark(headers: &mut HeaderMap) {
    headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    headers.append(VARY, HeaderValue::from_static("Accept-Encoding"));
    headers.remove(CONTENT_LENGTH);
}

/// A whole body as a response body, compressed if it is large and the client takes that.
pub(crate) fn finish(response: Response<Bytes>, gzip: bool) -> Response<Body> {
    let (mut head, body) = response.into_parts();
    if gzip && body.len() >= GZIP_FROM && !head.headers.contains_key(CONTENT_ENCODING) {
        let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 4), LEVEL);
        if let Ok(compressed) = encoder.write_all(&body).and_then(|()| encoder.finish()) {
            mark(&mut head.headers);
            return Response::from_parts(head, Body::whole(compressed));
        }
    }
    Response::from_parts(head, Body::whole(body))
}

/// A stream of chunks as a response body. With `gzip`, chunks are held back until it is clear whether the body is large.
pub(crate) async fn finish_stream(
    response: Response<BoxStream<'static, Result<Bytes, BodyError>>>,
    gzip: bool,
) -> Response<Body> {
    let (mut head, mut chunks) = response.into_parts();
    if !gzip {
        return Response::from_parts(head, Body::stream(chunks));
    }
    let mut held = Vec::new();
    let mut size = 0;
    while size < GZIP_FROM {
        match chunks.next().await {
            Some(Ok(chunk)) => {
                size += chunk.len();
                held.push(Ok(chunk));
            }
            Some(Err(error)) => {
                held.push(Err(error));
                return Response::from_parts(head, Body::stream(futures::stream::iter(held)));
            }
            None => return Response::from_parts(head, Body::stream(futures::stream::iter(held))),
        }
    }
    mark(&mut head.headers);
    let all = futures::stream::iter(held).chain(chunks);
    Response::from_parts(head, Body::stream(compress(all)))
}

fn compress(
    chunks: impl Stream<Item = Result<Bytes, BodyError>> + Send + 'static,
) -> impl Stream<Item = Result<Bytes, BodyError>> + Send + 'static {
    let state = Some((Box::pin(chunks), GzEncoder::new(Vec::new(), LEVEL)));
    futures::stream::unfold(state, |state| async move {
        let (mut chunks, mut encoder) = state?;
        loop {
            match chunks.next().await {
                Some(Ok(chunk)) => {
                    if let Err(error) = encoder.write_all(&chunk) {
                        return Some((Err(BodyError::new(&error)), None));
                    }
                    if !encoder.get_ref().is_empty() {
                        let out = std::mem::take(encoder.get_mut());
                        return Some((Ok(Bytes::from(out)), Some((chunks, encoder))));
                    }
                }
                Some(Err(error)) => return Some((Err(error), None)),
                None => {
                    let last = encoder.finish().map(Bytes::from).map_err(|error| BodyError::new(&error));
                    return Some((last, None));
                }
            }
        }
    })
}
