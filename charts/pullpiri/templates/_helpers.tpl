{{- define "pullpiri.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" }}
{{- end }}

{{- define "pullpiri.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else if contains (include "pullpiri.name" .) .Release.Name }}
{{- .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "pullpiri.name" .) | trunc 40 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "pullpiri.controllers" -}}{{ include "pullpiri.fullname" . }}-controllers{{- end }}
{{- define "pullpiri.node" -}}{{ include "pullpiri.fullname" . }}-node{{- end }}
{{/* The aggregated API's Service. */}}
{{- define "pullpiri.signals" -}}{{ include "pullpiri.fullname" . }}-signals{{- end }}
{{/* Also the name of the controllers' Lease. */}}
{{- define "pullpiri.lease" -}}{{ include "pullpiri.controllers" . }}{{- end }}

{{- define "pullpiri.selector" -}}
app.kubernetes.io/name: {{ include "pullpiri.name" .context }}
app.kubernetes.io/instance: {{ .context.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "pullpiri.labels" -}}
{{ include "pullpiri.selector" . }}
app.kubernetes.io/version: {{ .context.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: pullpiri
app.kubernetes.io/managed-by: {{ .context.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .context.Chart.Name .context.Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "pullpiri.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end }}

{{- define "pullpiri.serviceAccount" -}}
{{- $account := get .context.Values.serviceAccounts .component }}
{{- if $account.create }}
{{- default (include (printf "pullpiri.%s" .component) .context) $account.name }}
{{- else }}
{{- required (printf "serviceAccounts.%s.name is needed when serviceAccounts.%s.create is false" .component .component) $account.name }}
{{- end }}
{{- end }}

{{/* Whether the operator's kinds are rendered: "true" or nothing. */}}
{{- define "pullpiri.operator" -}}
{{- if or (eq .Values.monitoring.operator "on") (and (eq .Values.monitoring.operator "auto") (.Capabilities.APIVersions.Has "monitoring.coreos.com/v1")) }}true{{ end }}
{{- end }}

{{- define "pullpiri.nodeRestriction" -}}
{{- if or (eq .Values.rbac.nodeRestriction "on") (and (eq .Values.rbac.nodeRestriction "auto") (.Capabilities.APIVersions.Has "admissionregistration.k8s.io/v1/ValidatingAdmissionPolicy")) }}true{{ end }}
{{- end }}

{{/* A ClusterRoleBinding or RoleBinding's subject: a component's ServiceAccount. */}}
{{- define "pullpiri.subject" -}}
- kind: ServiceAccount
  name: {{ include "pullpiri.serviceAccount" . }}
  namespace: {{ .context.Release.Namespace }}
{{- end }}

{{/* Prometheus' rule groups, the same for the operator and without it. */}}
{{- define "pullpiri.rules" -}}
{{ .Files.Get "files/rules.yaml" }}
{{- end }}
