{{- define "outrider.name" -}}
{{ .Values.nameOverride | default .Chart.Name | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- /* The prefix of every object's name; the release's name, with the chart's where it does not say it. */ -}}
{{- define "outrider.fullname" -}}
{{- if .Values.fullnameOverride }}{{ .Values.fullnameOverride | trunc 52 | trimSuffix "-" }}
{{- else if contains (include "outrider.name" .) .Release.Name }}{{ .Release.Name | trunc 52 | trimSuffix "-" }}
{{- else }}{{ printf "%s-%s" .Release.Name (include "outrider.name" .) | trunc 52 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "outrider.namespace" -}}
{{ .Values.namespaceOverride | default .Release.Namespace }}
{{- end }}

{{- /* Labels that a selector may use: never changed. Context: root, component. */ -}}
{{- define "outrider.selectorLabels" -}}
app.kubernetes.io/name: {{ include "outrider.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- /* Context: root, component. */ -}}
{{- define "outrider.labels" -}}
{{ include "outrider.selectorLabels" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
app.kubernetes.io/part-of: outrider
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- /* An image reference. Context: image, version. */ -}}
{{- define "outrider.imageOf" -}}
{{- $name := .image.repository }}
{{- if .image.registry }}{{ $name = printf "%s/%s" .image.registry $name }}{{ end }}
{{- if .image.digest }}{{ $name }}@{{ .image.digest }}{{ else }}{{ $name }}:{{ .image.tag | default .version }}{{ end }}
{{- end }}

{{- define "outrider.image" -}}
{{ include "outrider.imageOf" (dict "image" .Values.image "version" .Chart.AppVersion) }}
{{- end }}

{{- /* Namespaces that are never touched, and what the operator adds. */ -}}
{{- define "outrider.namespaceSelector" -}}
matchExpressions:
  - key: kubernetes.io/metadata.name
    operator: NotIn
    values: [kube-system, kube-public, kube-node-lease, {{ include "outrider.namespace" . }}]
  {{- with .Values.injection.namespaceSelector.matchExpressions }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with .Values.injection.namespaceSelector.matchLabels }}
matchLabels:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "outrider.injectorName" -}}
{{ include "outrider.fullname" . }}-injector
{{- end }}

{{- define "outrider.serviceAccountName" -}}
{{ .Values.injector.serviceAccount.name | default (include "outrider.injectorName" .) }}
{{- end }}

{{- /* The Secret with the injector's own authority, or the one with the certificate that others make. */ -}}
{{- define "outrider.secretName" -}}
{{- with .Values.injector.certificates }}
{{- if eq .mode "Secret" }}{{ .secretName }}{{ else }}{{ include "outrider.injectorName" $ }}-tls{{ end }}
{{- end }}
{{- end }}

{{- /* What `outrider.dev/native-sidecar: auto` means: "true" or "false". */ -}}
{{- define "outrider.nativeSidecar" -}}
{{ and .Values.injection.defaults.nativeSidecar (semverCompare ">=1.29.0-0" .Capabilities.KubeVersion.Version) }}
{{- end }}

{{- /* clientConfig of a webhook, without a caBundle that somebody else writes. Context: root, path. */ -}}
{{- define "outrider.clientConfig" -}}
service: {name: {{ include "outrider.injectorName" .root }}, namespace: {{ include "outrider.namespace" .root }}, path: {{ .path }}, port: 443}
{{- if eq .root.Values.injector.certificates.mode "Secret" }}
caBundle: {{ .root.Values.injector.certificates.caBundle | b64enc }}
{{- end }}
{{- end }}

{{- /* Metadata of the webhook configurations. Context: the chart's root. */ -}}
{{- define "outrider.webhookMetadata" -}}
name: {{ include "outrider.injectorName" . }}
labels:
  {{- include "outrider.labels" (dict "root" . "component" "injector") | nindent 2 }}
{{- if eq .Values.injector.certificates.mode "CertManager" }}
annotations:
  cert-manager.io/inject-ca-from: {{ printf "%s/%s" (include "outrider.namespace" .) (include "outrider.secretName" .) }}
{{- end }}
{{- end }}

{{- /*
Who is to have a sidecar, as two selections that no pod is in at once (interface.md section 7: the pod's word before its
namespace's): pods of labelled namespaces that do not say no, and pods elsewhere that say yes. A JSON list of
{name, namespaceSelector, objectSelector}. Selectors, because CEL's match conditions do not see the namespace.
*/ -}}
{{- define "outrider.wanted" -}}
{{- $never := include "outrider.namespaceSelector" . | fromYaml }}
{{- $found := list }}
{{- range $name := list "namespace" "pod" }}
{{- $enrolled := eq $name "namespace" }}
{{- $namespaces := dict "key" "outrider.dev/inject" "operator" (ternary "In" "NotIn" $enrolled) "values" (list "enabled") }}
{{- $pods := dict "key" "outrider.dev/inject" "operator" (ternary "NotIn" "In" $enrolled) "values" (list (ternary "false" "true" $enrolled)) }}
{{- $selector := merge (dict "matchExpressions" (append $never.matchExpressions $namespaces)) $never }}
{{- $found = append $found (dict "name" $name "namespaceSelector" $selector "objectSelector" (dict "matchExpressions" (list $pods))) }}
{{- end }}
{{- toJson $found }}
{{- end }}
