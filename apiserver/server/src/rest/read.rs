//! Get and list.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use pullpiri_store::{Range, ReadError, Revision};
use serde::{Deserialize, Serialize};

use super::object::Object;
use super::options::{ListOptions, Match};
use super::selection::Selection;
use super::{Rest, key, store_errors};
use crate::registry::Resource;
use crate::status::Status;

/// How many objects are held at once while a long list is sent.
const PAGE: usize = 256;
/// How many are read at once to find those of a limited list that match.
const LARGEST_PAGE: usize = 1024;
const TOKEN_VERSION: &str = "meta.k8s.io/v1";

/// The first part of a list.
#[derive(Debug)]
pub(crate) struct Listing {
    pub(crate) revision: u64,
    pub(crate) items: Vec<Object>,
    /// For the client, when `limit` cut the list.
    pub(crate) continue_token: Option<String>,
    pub(crate) remaining: Option<u64>,
    /// For the server, when the list is sent page by page.
    pub(crate) rest: Option<Cursor>,
}

/// Where the next page of one listing begins.
#[derive(Clone, Debug)]
pub(crate) struct Cursor {
    after: Arc<str>,
    at: Revision,
}

/// The continue token, in the form that kube-apiserver uses too.
#[derive(Serialize, Deserialize)]
struct Token {
    v: String,
    /// -1: go on with the present state.
    rv: i64,
    start: String,
}

/// `resourceVersion` as a number; empty is 0.
///
/// # Errors
/// 400 if it is none.
pub(crate) fn parse_revision(text: &str) -> Result<u64, Status> {
    if text.is_empty() {
        return Ok(0);
    }
    text.parse().map_err(|_| {
        Status::bad_request(format!(
            "invalid resource version: resourceVersion: Invalid value: \"{text}\": strconv.ParseUint: parsing \"{text}\": invalid \
             syntax"
        ))
    })
}

/// As [`parse_revision`], where kube-apiserver answers 500.
pub(crate) fn parse_revision_or_fail(text: &str) -> Result<u64, Status> {
    parse_revision(text).map_err(|status| {
        let message = status.message().replacen("invalid resource version: ", "", 1);
        Status::new(http::StatusCode::INTERNAL_SERVER_ERROR, "", message)
    })
}

impl Rest {
    /// One object. `version` is the query's resourceVersion: a lower bound.
    pub(crate) async fn get(
        &self,
        resource: &Arc<Resource>,
        namespace: Option<&str>,
        name: &str,
        version: &str,
    ) -> Result<Object, Status> {
        let at_least = parse_revision_or_fail(version)?;
        let key = key::of(resource, namespace, name);
        let (found, revision) = self.store(resource).get(&key).await.map_err(|error| store_errors::read(&error))?;
        if at_least > revision.0 {
            return Err(store_errors::too_large(at_least, revision.0));
        }
        let found = found.ok_or_else(|| Status::not_found(resource.group_resource(), name))?;
        self.show_kv(resource, &found)
    }

    /// A list, or its first page.
    pub(crate) async fn list(
        &self,
        resource: &Arc<Resource>,
        namespace: Option<&str>,
        selection: &Selection,
        options: &ListOptions,
    ) -> Result<Listing, Status> {
        let store = self.store(resource);
        let prefix = selection.prefix(resource, namespace);
        let (at, after) = start(&prefix, options)?;
        let not_older = parse_revision(&options.resource_version)?;
        if at.is_none() && not_older > 0 {
            let present = store.catch_up(Revision(not_older)).await.0;
            if not_older > present {
                return Err(store_errors::too_large(not_older, present));
            }
        }
        let failed = |error: ReadError| match (&error, &after) {
            (ReadError::Compacted { .. }, Some(after)) => expired_token(&prefix, after),
            _ => store_errors::read(&error),
        };
        let Some(limit) = options.limit else {
            let cursor = after.clone().map(|after| (after, at));
            let (items, revision, rest) =
                self.page(resource, &prefix, namespace, selection, cursor, at, PAGE).await.map_err(failed)?;
            let items = items.into_iter().collect::<Result<Vec<_>, _>>()?;
            return Ok(Listing { revision: revision.0, items, continue_token: None, remaining: None, rest });
        };
        self.limited(resource, namespace, selection, limit, (prefix.clone(), at, after.clone())).await.map_err(
            |error| match error {
                LimitedError::Store(error) => failed(error),
                LimitedError::Status(status) => status,
            },
        )
    }

    /// Up to `limit` objects that match, and a token for the rest.
    async fn limited(
        &self,
        resource: &Arc<Resource>,
        namespace: Option<&str>,
        selection: &Selection,
        limit: usize,
        (prefix, mut at, mut after): (String, Option<Revision>, Option<Arc<str>>),
    ) -> Result<Listing, LimitedError> {
        let mut items = Vec::new();
        // Where few match, a page of as many as are wanted finds few: the next one is twice as large.
        let mut size = limit;
        loop {
            let range = Range { prefix: prefix.clone(), after: after.clone(), at, limit: Some(size) };
            let page = self.store(resource).list(range).await?;
            at = Some(page.revision);
            size = size.saturating_mul(2).min(limit.max(LARGEST_PAGE));
            let mut unread = page.items.iter();
            while items.len() < limit
                && let Some(kv) = unread.next()
            {
                after = Some(Arc::clone(&kv.key));
                items.extend(self.select(resource, namespace, selection, kv).map_err(LimitedError::Status)?);
            }
            let more = page.more || unread.len() > 0;
            if !page.more || items.len() >= limit {
                let token = after
                    .filter(|_| more)
                    .map(|after| token(&prefix, &after, i64::try_from(page.revision.0).unwrap_or(i64::MAX)));
                return Ok(Listing {
                    revision: page.revision.0,
                    items,
                    continue_token: token,
                    remaining: page.remaining.filter(|_| more && selection.is_everything()),
                    rest: None,
                });
            }
        }
    }

    /// The next page of a listing that is sent as it is read.
    pub(crate) async fn next_page(
        &self,
        resource: &Arc<Resource>,
        namespace: Option<&str>,
        selection: &Selection,
        cursor: Cursor,
    ) -> Result<(Vec<Object>, Option<Cursor>), Status> {
        let prefix = selection.prefix(resource, namespace);
        let from = Some((cursor.after, Some(cursor.at)));
        let (items, _, rest) = self
            .page(resource, &prefix, namespace, selection, from, Some(cursor.at), PAGE)
            .await
            .map_err(|error| store_errors::read(&error))?;
        Ok((items.into_iter().collect::<Result<Vec<_>, _>>()?, rest))
    }

    #[expect(clippy::too_many_arguments, reason = "one query, spelt out")]
    async fn page(
        &self,
        resource: &Arc<Resource>,
        prefix: &str,
        namespace: Option<&str>,
        selection: &Selection,
        from: Option<(Arc<str>, Option<Revision>)>,
        at: Option<Revision>,
        limit: usize,
    ) -> Result<(Vec<Result<Object, Status>>, Revision, Option<Cursor>), ReadError> {
        let range = Range { prefix: prefix.to_owned(), after: from.map(|(after, _)| after), at, limit: Some(limit) };
        let page = self.store(resource).list(range).await?;
        let items =
            page.items.iter().filter_map(|kv| self.select(resource, namespace, selection, kv).transpose()).collect();
        let rest = page.items.last().filter(|_| page.more);
        let rest = rest.map(|last| Cursor { after: Arc::clone(&last.key), at: page.revision });
        Ok((items, page.revision, rest))
    }

    fn select(
        &self,
        resource: &Resource,
        namespace: Option<&str>,
        selection: &Selection,
        kv: &pullpiri_store::KeyValue,
    ) -> Result<Option<Object>, Status> {
        if !selection.may_match_key(namespace, &kv.key) {
            return Ok(None);
        }
        let object = self.show_kv(resource, kv)?;
        Ok(if selection.matches(resource, &object)? { Some(object) } else { None })
    }
}

enum LimitedError {
    Store(ReadError),
    Status(Status),
}

impl From<ReadError> for LimitedError {
    fn from(error: ReadError) -> Self {
        Self::Store(error)
    }
}

/// The revision to list at (`None`: now) and the key to start after.
fn start(prefix: &str, options: &ListOptions) -> Result<(Option<Revision>, Option<Arc<str>>), Status> {
    let given = parse_revision(&options.resource_version)?;
    if !options.continue_token.is_empty() {
        let (revision, after) = parse_token(prefix, &options.continue_token)?;
        if given != 0 {
            return Err(Status::bad_request("specifying resource version is not allowed when using continue"));
        }
        return Ok((revision, Some(after)));
    }
    let exact = match options.version_match {
        Some(Match::Exact) => true,
        Some(Match::NotOlderThan) => false,
        None => options.limit.is_some() && given > 0,
    };
    Ok((exact.then_some(Revision(given)), None))
}

fn token(prefix: &str, after: &str, revision: i64) -> String {
    let start = format!("{}\0", after.strip_prefix(prefix).unwrap_or(after));
    let token = Token { v: TOKEN_VERSION.to_owned(), rv: revision, start };
    URL_SAFE_NO_PAD.encode(serde_json::to_vec(&token).unwrap_or_default())
}

fn parse_token(prefix: &str, text: &str) -> Result<(Option<Revision>, Arc<str>), Status> {
    let invalid = |why: String| Status::bad_request(format!("invalid continue token: continue key is not valid{why}"));
    let bytes = URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).map_err(|error| invalid(format!(": {error}")))?;
    let token: Token = serde_json::from_slice(&bytes).map_err(|error| invalid(format!(": {error}")))?;
    if token.v != TOKEN_VERSION {
        return Err(invalid(format!(": server does not recognize this encoded version {}", token.v)));
    }
    if token.rv == 0 {
        return Err(invalid(format!(": incorrect encoded start resourceVersion (version {TOKEN_VERSION})")));
    }
    let start = token.start.trim_end_matches('\0');
    if start.is_empty() {
        return Err(invalid(format!(": encoded start key empty (version {TOKEN_VERSION})")));
    }
    let revision = u64::try_from(token.rv).ok().map(Revision);
    Ok((revision, format!("{prefix}{start}").into()))
}

/// 410 with a token that goes on with the present state, inconsistently.
fn expired_token(prefix: &str, after: &str) -> Status {
    Status::expired(
        "The provided continue parameter is too old to display a consistent list result. You can start a new list without the \
         continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with \
         the provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the \
         first chunk was returned and now may show up in the list.",
    )
    .with_continue(token(prefix, after, -1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_survive_the_trip_and_junk_is_refused() {
        let prefix = "core/configmaps/";
        let (revision, after) = parse_token(prefix, &token(prefix, "core/configmaps/a/b", 7)).unwrap();
        assert_eq!((revision, &*after), (Some(Revision(7)), "core/configmaps/a/b"));
        let (revision, _) = parse_token(prefix, &token(prefix, "core/configmaps/a/b", -1)).unwrap();
        assert_eq!(revision, None, "goes on with the present state");
        for junk in ["", "!", "e30", "bm90IGpzb24"] {
            let status = parse_token(prefix, junk).unwrap_err();
            assert!(status.message().starts_with("invalid continue token: continue key is not valid"), "{status}");
        }
    }

    #[test]
    fn which_revision_a_list_is_of() {
        let options = |version: &str, version_match, limit| ListOptions {
            resource_version: version.to_owned(),
            version_match,
            limit,
            ..ListOptions::default()
        };
        let cases = [
            (options("", None, None), None),
            (options("0", None, Some(5)), None),
            (options("7", None, None), None),
            (options("7", None, Some(5)), Some(7)),
            (options("7", Some(Match::NotOlderThan), Some(5)), None),
            (options("7", Some(Match::Exact), None), Some(7)),
        ];
        for (options, expected) in cases {
            assert_eq!(start("p/", &options).unwrap().0, expected.map(Revision), "{options:?}");
        }
        assert_eq!(start("p/", &options("x", None, None)).unwrap_err().code().as_u16(), 400);
    }
}
