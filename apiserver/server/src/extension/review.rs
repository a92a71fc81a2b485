//! May they? The cluster's authoriser is asked by SubjectAccessReviews; answers are remembered for a short while, as any aggregated API does.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::authorization::v1::{
    NonResourceAttributes, ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
};
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::time::Instant;

use crate::authz::{Attributes, forbidden};
use crate::status::Status;

/// As k8s.io/apiserver's delegating authoriser.
const REMEMBERED: Duration = Duration::from_secs(10);
/// More answers than that aren't remembered.
const CAPACITY: usize = 4096;
/// The group whose members every Kubernetes lets do everything.
const MASTERS: &str = "system:masters";

#[derive(Clone)]
struct Answer {
    allowed: bool,
    reason: String,
    until: Instant,
}

pub(super) struct Reviewer {
    client: Client,
    answers: Mutex<HashMap<String, Answer>>,
}

impl Reviewer {
    pub(super) fn new(client: Client) -> Self {
        Self { client, answers: Mutex::default() }
    }

    /// # Errors
    /// 403, or 503 when nobody can be asked.
    pub(super) async fn check(&self, attributes: &Attributes<'_>) -> Result<(), Status> {
        if attributes.user.is_in(MASTERS) {
            return Ok(());
        }
        let spec = question(attributes);
        let key = serde_json::to_string(&spec).map_err(|error| Status::internal(&error))?;
        let now = Instant::now();
        let known = self.lock().get(&key).filter(|answer| answer.until > now).cloned();
        let answer = match known {
            Some(answer) => answer,
            None => {
                let answer = self.ask(spec).await?;
                self.remember(key, answer.clone(), now);
                answer
            }
        };
        if answer.allowed { Ok(()) } else { Err(forbidden(attributes, &answer.reason)) }
    }

    async fn ask(&self, spec: SubjectAccessReviewSpec) -> Result<Answer, Status> {
        let reviews: Api<SubjectAccessReview> = Api::all(self.client.clone());
        let review = SubjectAccessReview { spec, ..SubjectAccessReview::default() };
        let review = reviews.create(&PostParams::default(), &review).await.map_err(|error| {
            tracing::debug!(%error, "a SubjectAccessReview failed");
            Status::service_unavailable(format!("asking whether this is allowed: {error}")).with_retry_after(1)
        })?;
        let status = review.status.unwrap_or_default();
        let allowed = status.allowed && status.denied != Some(true);
        Ok(Answer { allowed, reason: status.reason.unwrap_or_default(), until: Instant::now() + REMEMBERED })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Answer>> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remember(&self, key: String, answer: Answer, now: Instant) {
        let mut answers = self.lock();
        if answers.len() >= CAPACITY {
            answers.retain(|_, answer| answer.until > now);
        }
        if answers.len() < CAPACITY {
            answers.insert(key, answer);
        }
    }
}

fn question(attributes: &Attributes<'_>) -> SubjectAccessReviewSpec {
    let user = attributes.user;
    let some = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    let resource_attributes = attributes.resource.as_ref().map(|resource| ResourceAttributes {
        group: some(resource.group),
        version: some(resource.version),
        resource: some(resource.plural),
        subresource: some(resource.subresource),
        namespace: resource.namespace.map(str::to_owned),
        name: resource.name.map(str::to_owned),
        verb: some(attributes.verb),
        ..ResourceAttributes::default()
    });
    let path = NonResourceAttributes { path: some(attributes.path), verb: some(attributes.verb) };
    SubjectAccessReviewSpec {
        user: some(&user.name),
        uid: some(&user.uid),
        groups: Some(user.groups.clone()),
        extra: Some(user.extra.clone()).filter(|extra| !extra.is_empty()),
        non_resource_attributes: resource_attributes.is_none().then_some(path),
        resource_attributes,
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use http::{Request, Response};
    use kube::client::Body;

    use super::*;
    use crate::auth::UserInfo;

    fn attributes(user: &UserInfo) -> Attributes<'_> {
        Attributes { user, verb: "get", path: "/version", resource: None }
    }

    #[tokio::test(start_paused = true)]
    async fn answers_are_remembered_for_a_while() {
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        let service = tower::service_fn(move |request: Request<Body>| {
            let count = Arc::clone(&count);
            async move {
                count.fetch_add(1, Ordering::SeqCst);
                let sent = request.into_body().collect_bytes().await.unwrap();
                let allowed = String::from_utf8_lossy(&sent).contains("alice");
                let body = format!(
                    r#"{{"apiVersion":"authorization.k8s.io/v1","kind":"SubjectAccessReview","spec":{{}},"status":{{"allowed":{allowed}}}}}"#
                );
                Ok::<_, Infallible>(Response::new(Body::from(body.into_bytes())))
            }
        });
        let reviewer = Reviewer::new(Client::new(service, "default"));
        let (alice, eve) = (UserInfo::new("alice", []), UserInfo::new("eve", []));
        for _ in 0..3 {
            assert!(reviewer.check(&attributes(&alice)).await.is_ok());
            assert_eq!(reviewer.check(&attributes(&eve)).await.unwrap_err().code().as_u16(), 403);
        }
        assert_eq!(asked.load(Ordering::SeqCst), 2);
        tokio::time::sleep(Duration::from_secs(11)).await;
        assert!(reviewer.check(&attributes(&alice)).await.is_ok());
        assert_eq!(asked.load(Ordering::SeqCst), 3);
        let root = UserInfo::new("root", [MASTERS.to_owned()]);
        assert!(reviewer.check(&attributes(&root)).await.is_ok());
        assert_eq!(asked.load(Ordering::SeqCst), 3);
    }
}
