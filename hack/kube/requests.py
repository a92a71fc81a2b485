#!/usr/bin/env python3
"""What service accounts of a namespace asked a kube-apiserver for and were let do, from its audit log: requests.py LOG NAMESPACE PREFIX.

A line for each, without repetition: account (without PREFIX), verb, group, resource, namespace, name; `-` for none. Names are told where roles can name
them in advance. An apply or update that made its object needed `create`, too (that is how it is authorised), and is told as both.
"""

import json
import sys

NAMED = {"apiservices", "configmaps", "leases", "secrets"}


def requests(event, prefix, named_in):
    user = (event.get("impersonatedUser") or event["user"])["username"]
    target = event.get("objectRef")
    allowed = event.get("annotations", {}).get("authorization.k8s.io/decision") == "allow"
    if not user.startswith(prefix) or not target or not allowed:
        return
    verbs = [event["verb"]]
    if event["verb"] in ("patch", "update") and event.get("responseStatus", {}).get("code") == 201:
        verbs.append("create")
    resource = "/".join(part for part in (target["resource"], target.get("subresource")) if part)
    namespace = target.get("namespace") or "-"
    for verb in verbs:
        is_named = target["resource"] in NAMED and verb != "create" and namespace in named_in
        name = target.get("name") if is_named else None
        yield " ".join([user.removeprefix(prefix), verb, target.get("apiGroup") or "-", resource, namespace, name or "-"])


def main():
    log, namespace, prefix = sys.argv[1:]
    seen = set()
    with open(log, encoding="utf-8") as lines:
        for line in lines:
            seen.update(requests(json.loads(line), f"system:serviceaccount:{namespace}:{prefix}", {"-", namespace, "kube-system"}))
    print("\n".join(sorted(seen)))


main()
