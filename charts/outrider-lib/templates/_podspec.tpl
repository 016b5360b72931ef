{{- /*
outrider-lib.podSpec: a pod spec with the sidecar, as YAML.

  spec:
    {{- include "outrider-lib.podSpec" (dict "podSpec" $spec "annotations" $annotations "Values" .Values.outrider) | nindent 4 }}

podSpec      the pod spec without the sidecar (a dict)
annotations  the pod's annotations: outrider.dev/configmap, outrider.dev/app-port and so on
Values       any subset of the values of charts/outrider that concern the sidecar: image.*, injection.defaults.*

The same rules as the webhook's, and the same pod (tests/charts compares them); what cannot be fails the render.
*/ -}}
{{- define "outrider-lib.podSpec" -}}
{{- $spec := deepCopy .podSpec }}
{{- $annotations := .annotations | default dict }}
{{- $settings := include "outrider-lib.settings" (dict "annotations" $annotations "Values" (.Values | default dict)) | fromYaml }}
{{- $native := $settings.native }}
{{- $values := $settings.values }}
{{- $facts := list }}
{{- if $native }}{{ $facts = append $facts "native" }}{{ end }}
{{- range list "configmap" "appPort" }}{{ if get $values . }}{{ $facts = append $facts . }}{{ end }}{{ end }}
{{- if $values.otlpEndpoint }}{{ $facts = append $facts "otlp" }}{{ end }}
{{- if eq (include "outrider-lib.guaranteed" $spec) "true" }}{{ $facts = append $facts "guaranteed" }}{{ end }}
{{- $security := $spec.securityContext | default dict }}
{{- if and (hasKey $security "runAsUser") (eq (int $security.runAsUser) 0) }}{{ $facts = append $facts "root" }}{{ end }}
{{- $resources := $spec.resources | default dict }}
{{- if or $resources.requests $resources.limits }}{{ $facts = append $facts "podResources" }}{{ end }}
{{- include "outrider-lib.check" (dict "spec" $spec "appPort" $values.appPort) }}
{{- if $settings.proxyEnv }}
{{- $added := include "outrider-lib.applicationEnv" . | fromYamlArray }}
{{- range $kind := list "initContainers" "containers" }}
{{- range $container := (get $spec $kind | default list) }}
{{- $given := $container.env | default list }}
{{- range $variable := $added }}
{{- $free := true }}
{{- range $given }}
{{- if or (eq .name $variable.name) (and (eq (lower .name) (lower $variable.name)) (ne (toString .value) $variable.value)) }}{{ $free = false }}{{ end }}
{{- end }}
{{- if $free }}{{ $_ := set $container "env" (append ($container.env | default list) $variable) }}{{ end }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- $context := dict "settings" $values "facts" $facts }}
{{- $sidecar := include "outrider-lib.container" $context | fromYaml }}
{{- $kind := ternary "initContainers" "containers" $native }}
{{- $_ := set $spec $kind (prepend (get $spec $kind | default list) $sidecar) }}
{{- $_ := set $spec "volumes" (concat ($spec.volumes | default list) (include "outrider-lib.volumes" $context | fromYamlArray)) }}
{{- toYaml $spec }}
{{- end }}

{{- /* outrider-lib.annotations: the pod's annotations with the mark that says the chart has put the sidecar there. Same context as podSpec. */ -}}
{{- define "outrider-lib.annotations" -}}
{{- $annotations := deepCopy (.annotations | default dict) }}
{{- $settings := include "outrider-lib.settings" (dict "annotations" $annotations "Values" (.Values | default dict)) | fromYaml }}
{{- if not $settings.native }}
{{- $first := (first .podSpec.containers).name }}
{{- range list "kubectl.kubernetes.io/default-container" "kubectl.kubernetes.io/default-logs-container" }}
{{- if not (hasKey $annotations .) }}{{ $_ := set $annotations . $first }}{{ end }}
{{- end }}
{{- end }}
{{- $annotations = omit $annotations "outrider.dev/not-injected" }}
{{- $_ := set $annotations "outrider.dev/injected" (printf "{\"version\":%s,\"by\":\"chart\"}" (include "outrider-lib.version" . | toJson)) }}
{{- toYaml $annotations }}
{{- end }}

{{- /* The version of this library, which is the sidecar's. */ -}}
{{- define "outrider-lib.version" -}}
0.1.0
{{- end }}

{{- /* Whether every container has limits for cpu and memory and requests that are left out or equal: "true" or "". */ -}}
{{- define "outrider-lib.guaranteed" -}}
{{- $guaranteed := true }}
{{- range concat (.initContainers | default list) (.containers | default list) }}
{{- $resources := .resources | default dict }}
{{- $limits := $resources.limits | default dict }}
{{- $requests := $resources.requests | default dict }}
{{- range list "cpu" "memory" }}
{{- $limit := include "outrider-lib.amount" (get $limits . | toString) }}
{{- if or (not (hasKey $limits .)) (eq $limit "0") }}{{ $guaranteed = false }}
{{- else if and (hasKey $requests .) (ne (include "outrider-lib.amount" (get $requests . | toString)) $limit) }}{{ $guaranteed = false }}{{ end }}
{{- end }}
{{- end }}
{{- if $guaranteed }}true{{ end }}
{{- end }}
