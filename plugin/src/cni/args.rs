//! `CNI_ARGS`: who the pod is, as far as the runtime says.

use serde::{Deserialize, Serialize};

/// Longest `CNI_ARGS` that is read; real ones have some 300 bytes.
pub const LENGTH_MAX: usize = 64 * 1024;

/// The pod. Each part is absent when the runtime does not give it; outside Kubernetes all are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodRef {
    /// `K8S_POD_NAMESPACE`
    pub namespace: Option<String>,
    /// `K8S_POD_NAME`
    pub name: Option<String>,
    /// `K8S_POD_UID`; containerd 1.5.3, CRI-O 1.22 and later.
    pub uid: Option<String>,
    /// `K8S_POD_INFRA_CONTAINER_ID`
    pub sandbox: Option<String>,
}

impl PodRef {
    /// Reads `KEY=value;KEY=value`, in any order. Unknown keys and parts without `=` are ignored, empty values are absent
    /// ones. Of a key that comes twice the first counts: CRI-O appends the `CNI_ARGS` of its own environment.
    pub fn parse(args: &str) -> Self {
        let mut pod = Self::default();
        for (key, value) in args.split(';').filter_map(|pair| pair.split_once('=')) {
            let part = match key {
                "K8S_POD_NAMESPACE" => &mut pod.namespace,
                "K8S_POD_NAME" => &mut pod.name,
                "K8S_POD_UID" => &mut pod.uid,
                "K8S_POD_INFRA_CONTAINER_ID" => &mut pod.sandbox,
                _ => continue,
            };
            if part.is_none() && !value.is_empty() {
                *part = Some(value.to_owned());
            }
        }
        pod
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{prop_assert, proptest};

    use super::PodRef;

    #[test]
    fn as_runtimes_send_it() {
        let pod = PodRef::parse(
            "K8S_POD_INFRA_CONTAINER_ID=abc;K8S_POD_UID=2c0e;IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=cart-0",
        );
        let part = |text: &str| Some(text.to_owned());
        assert_eq!(
            pod,
            PodRef { namespace: part("shop"), name: part("cart-0"), uid: part("2c0e"), sandbox: part("abc") }
        );
    }

    #[test]
    fn odd_ones() {
        assert_eq!(PodRef::parse(""), PodRef::default());
        assert_eq!(PodRef::parse(";;=;==;a;K8S_POD_NAME;k8s_pod_name=x;K8S_POD_NAME=;"), PodRef::default());
        assert_eq!(PodRef::parse("K8S_POD_NAME=a=b;K8S_POD_NAME=c").name.as_deref(), Some("a=b"));
    }

    proptest! {
        #[test]
        fn any_text_is_answered(text in "(K8S_POD_NAME|K8S_POD_UID|=|;|.){0,20}") {
            let pod = PodRef::parse(&text);
            prop_assert!(!pod.name.is_some_and(|name| name.is_empty() || name.contains(';')));
        }
    }
}
