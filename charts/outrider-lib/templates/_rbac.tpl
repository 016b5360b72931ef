{{- /*
outrider-lib.rbac: the Role and RoleBinding with which the sidecar of an application reads through the API server.

  {{ include "outrider-lib.rbac" (dict "name" "orders" "namespace" .Release.Namespace "annotations" $annotations) }}

name            of both objects, and of the application's ServiceAccount unless that is given
namespace       where the application runs
annotations     the pod's annotations: outrider.dev/configmap names the ConfigMap that may be read
serviceAccount  the application's ServiceAccount (optional)
configMaps      more ConfigMaps that may be read, such as bundles of authorities (optional, a list)
secrets         Secrets with certificates that the document names (optional, a list)
endpointSlices  true: upstreams with `service` in the same namespace (optional)
labels          labels of both objects (optional, a dict)

A sidecar has the ServiceAccount of its application: what is granted here, the application may do as well.
*/ -}}
{{- define "outrider-lib.rbac" -}}
{{- range list "name" "namespace" }}
{{- if not (get $ .) }}{{ fail (printf "outrider-lib.rbac: %s is required" .) }}{{ end }}
{{- end }}
{{- $configMaps := compact (prepend (.configMaps | default list) (get (.annotations | default dict) "outrider.dev/configmap" | default "")) | uniq }}
{{- if not (or $configMaps .secrets .endpointSlices) }}
{{- fail "outrider-lib.rbac: nothing to read (name a ConfigMap in the annotation outrider.dev/configmap or in configMaps, or secrets, or set endpointSlices)" }}
{{- end }}
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata:
  name: {{ .name }}
  namespace: {{ .namespace }}
  {{- with .labels }}
  labels:
    {{- toYaml . | nindent 4 }}
  {{- end }}
rules:
  {{- with $configMaps }}
  - {apiGroups: [""], resources: [configmaps], resourceNames: {{ toJson . }}, verbs: [get, list, watch]}
  {{- end }}
  {{- with .secrets }}
  - {apiGroups: [""], resources: [secrets], resourceNames: {{ toJson . }}, verbs: [get, list, watch]}
  {{- end }}
  {{- if .endpointSlices }}
  - {apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [list, watch]}
  {{- end }}
  - {apiGroups: [events.k8s.io], resources: [events], verbs: [create]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata:
  name: {{ .name }}
  namespace: {{ .namespace }}
  {{- with .labels }}
  labels:
    {{- toYaml . | nindent 4 }}
  {{- end }}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: {{ .name }}}
subjects: [{kind: ServiceAccount, name: {{ .serviceAccount | default .name }}, namespace: {{ .namespace }}}]
{{- end }}
