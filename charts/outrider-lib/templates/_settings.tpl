{{- /*
outrider-lib.settings: annotations over defaults, as YAML: {values: {...}, native: bool, proxyEnv: bool}.
Context: annotations, Values (image.*, injection.defaults.*). The rules of sidecar/injector/settings.py.
*/ -}}
{{- define "outrider-lib.settings" -}}
{{- $a := .annotations }}
{{- $defaults := dig "injection" "defaults" dict .Values }}
{{- range $name, $value := $a }}
{{- if not (kindIs "string" $value) }}{{ fail (printf "annotation %s is not text (quote it)" $name) }}{{ end }}
{{- end }}
{{- $configmap := include "outrider-lib.annotation" (list $a "configmap" "^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$" "the name of a ConfigMap in the pod's namespace") }}
{{- $appPort := index $a "outrider.dev/app-port" | default "" }}
{{- if and $appPort (or (not (regexMatch "^[0-9]{1,5}$" $appPort)) (lt (atoi $appPort) 1) (gt (atoi $appPort) 65535)) }}
{{- fail "annotation outrider.dev/app-port is not a port (write for example \"8000\")" }}
{{- end }}
{{- if not (or $configmap $appPort) }}
{{- fail "names neither outrider.dev/configmap (a ConfigMap with the document) nor outrider.dev/app-port (the port of the application)" }}
{{- end }}
{{- $quantity := "^(0|[1-9][0-9]*)(\\.[0-9]+)?(m|[kMGTPE]|[KMGTPE]i)?$" }}
{{- $image := include "outrider-lib.annotation" (list $a "image" "^[a-zA-Z0-9][-a-zA-Z0-9._/:@]{0,511}$" "an image reference") }}
{{- $logLevel := index $a "outrider.dev/log-level" | default "" }}
{{- if not (has $logLevel (list "" "debug" "info" "warning" "error")) }}{{ fail "annotation outrider.dev/log-level is none of debug, info, warning, error" }}{{ end }}
{{- $cpu := include "outrider-lib.annotation" (list $a "cpu-request" $quantity "a quantity such as 50m") }}
{{- $memoryRequest := include "outrider-lib.annotation" (list $a "memory-request" $quantity "a quantity such as 64Mi") | default $defaults.memoryRequest | default "64Mi" }}
{{- $memoryLimit := include "outrider-lib.annotation" (list $a "memory-limit" $quantity "a quantity such as 256Mi") | default $defaults.memoryLimit | default "256Mi" }}
{{- $configmapKey := include "outrider-lib.annotation" (list $a "configmap-key" "^[-._a-zA-Z0-9]{1,253}$" "a key of a ConfigMap") }}
{{- $native := index $a "outrider.dev/native-sidecar" | default "auto" }}
{{- if not (has $native (list "auto" "enabled" "disabled")) }}{{ fail "annotation outrider.dev/native-sidecar is none of auto, enabled, disabled" }}{{ end }}
{{- $proxyEnv := index $a "outrider.dev/outbound-proxy-env" | default "" }}
{{- if not (has $proxyEnv (list "" "true" "false")) }}{{ fail "annotation outrider.dev/outbound-proxy-env is none of true, false" }}{{ end }}
{{- if and (eq $proxyEnv "true") (not $configmap) }}{{ fail "annotation outrider.dev/outbound-proxy-env needs outrider.dev/configmap (a document with a Forward listener on port 15002; without one there is no way out)" }}{{ end }}
{{- if gt (float64 (include "outrider-lib.amount" $memoryRequest)) (float64 (include "outrider-lib.amount" $memoryLimit)) }}
{{- fail (printf "the memory request %s is more than the limit %s (set outrider.dev/memory-request or outrider.dev/memory-limit)" $memoryRequest $memoryLimit) }}
{{- end }}
values:
  image: {{ $image | default (include "outrider-lib.image" .Values) | quote }}
  imagePullPolicy: {{ dig "image" "pullPolicy" "" .Values | default "IfNotPresent" | quote }}
  logLevel: {{ $logLevel | default $defaults.logLevel | default "info" | quote }}
  cpuRequest: {{ $cpu | default $defaults.cpuRequest | default "50m" | quote }}
  memoryRequest: {{ $memoryRequest | quote }}
  memoryLimit: {{ $memoryLimit | quote }}
  guaranteedCpu: {{ $cpu | default $defaults.guaranteedCpu | default "250m" | quote }}
  configmap: {{ $configmap | quote }}
  configmapKey: {{ $configmapKey | default $defaults.configmapKey | default "sidecar.yaml" | quote }}
  appPort: {{ $appPort | quote }}
  otlpEndpoint: {{ $defaults.otlpEndpoint | default "" | quote }}
native: {{ or (eq $native "enabled") (and (eq $native "auto") (ternary $defaults.nativeSidecar true (hasKey $defaults "nativeSidecar"))) }}
proxyEnv: {{ eq $proxyEnv "true" }}
{{- end }}

{{- /* An annotation's text, "" when absent. Context: annotations, its name, a pattern, what it should be. */ -}}
{{- define "outrider-lib.annotation" -}}
{{- $text := index (index . 0) (printf "outrider.dev/%s" (index . 1)) | default "" }}
{{- if and $text (not (regexMatch (index . 2) $text)) }}{{ fail (printf "annotation outrider.dev/%s is not %s" (index . 1) (index . 3)) }}{{ end }}
{{- $text }}
{{- end }}

{{- /* A resource quantity as a number, or as it is when it is none: 1000m and 1 are the same. Context: text or number. */ -}}
{{- define "outrider-lib.amount" -}}
{{- $text := toString . }}
{{- $number := regexFind "^[0-9]+([.][0-9]*)?" $text }}
{{- $factors := dict "" 1.0 "n" 0.000000001 "u" 0.000001 "m" 0.001 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "P" 1e15 "E" 1e18 "Ki" 1024.0 "Mi" 1048576.0 "Gi" 1073741824.0 "Ti" 1099511627776.0 "Pi" 1125899906842624.0 "Ei" 1152921504606846976.0 }}
{{- $unit := trimPrefix $number $text }}
{{- if and $number (hasKey $factors $unit) }}{{ mulf (float64 $number) (get $factors $unit) }}{{ else }}{{ $text }}{{ end }}
{{- end }}

{{- /* The sidecar's image reference. Context: values with image.*. */ -}}
{{- define "outrider-lib.image" -}}
{{- $image := .image | default dict }}
{{- $name := $image.repository | default "outrider" }}
{{- if $image.registry }}{{ $name = printf "%s/%s" $image.registry $name }}{{ end }}
{{- if $image.digest }}{{ $name }}@{{ $image.digest }}{{ else }}{{ $name }}:{{ $image.tag | default (include "outrider-lib.version" .) }}{{ end }}
{{- end }}
