{{- /*
The rules of sidecar/injector/{settings,patch}.py as variables of the MutatingAdmissionPolicy. Context: the chart's root.
Annotations over the chart's defaults; `refusal` is "" or why the pod cannot have a sidecar.
*/ -}}
{{- define "outrider.policy.variables" -}}
{{- $defaults := .Values.injection.defaults }}
- name: annotations
  expression: 'has(object.metadata.annotations) ? object.metadata.annotations : {}'
- name: inits
  expression: 'has(object.spec.initContainers) ? object.spec.initContainers : []'
{{- $texts := list
  (list "configmap" "configmap" "")
  (list "appPort" "app-port" "")
  (list "configmapKey" "configmap-key" $defaults.configmapKey)
  (list "logLevel" "log-level" $defaults.logLevel)
  (list "image" "image" (include "outrider.image" .))
  (list "cpuRequest" "cpu-request" $defaults.cpuRequest)
  (list "guaranteedCpu" "cpu-request" $defaults.guaranteedCpu)
  (list "memoryRequest" "memory-request" $defaults.memoryRequest)
  (list "memoryLimit" "memory-limit" $defaults.memoryLimit)
  (list "nativeWord" "native-sidecar" "auto")
  (list "proxyWord" "outbound-proxy-env" "false") }}
{{- range $texts }}
- name: {{ index . 0 }}
  expression: |-
    'outrider.dev/{{ index . 1 }}' in variables.annotations && variables.annotations['outrider.dev/{{ index . 1 }}'] != '' ? variables.annotations['outrider.dev/{{ index . 1 }}'] : {{ index . 2 | toJson }}
{{- end }}
- name: imagePullPolicy
  expression: {{ .Values.image.pullPolicy | toJson | squote }}
- name: otlpEndpoint
  expression: {{ $defaults.otlpEndpoint | toJson | squote }}
- name: is_configmap
  expression: "variables.configmap != ''"
- name: is_appPort
  expression: "variables.appPort != ''"
- name: is_otlp
  expression: "variables.otlpEndpoint != ''"
- name: is_native
  expression: "variables.nativeWord == 'enabled' || (variables.nativeWord == 'auto' && {{ $defaults.nativeSidecar }})"
- name: is_root
  expression: 'object.spec.?securityContext.?runAsUser.orValue(1) == 0'
- name: is_podResources
  expression: 'object.spec.?resources.?requests.hasValue() || object.spec.?resources.?limits.hasValue()'
- name: is_guaranteed
  expression: |-
    {{- $limit := "quantity(string(c.resources.limits[k]))" }}
    {{- $request := "quantity(string(c.resources.requests[k]))" }}
    {{- $said := "has(c.resources) && has(c.resources.limits) && k in c.resources.limits" }}
    {{- $same := printf "!has(c.resources.requests) || !(k in c.resources.requests) || %s.compareTo(%s) == 0" $request $limit }}
    {{- $equal := printf "['cpu', 'memory'].all(k, %s && %s.isGreaterThan(quantity('0')) && (%s))" $said $limit $same }}
    variables.inits.all(c, {{ $equal }}) &&
    object.spec.containers.all(c, {{ $equal }})
- name: ports
  expression: '[15001, 15002, 15021, 15020]'
- name: refusal
  expression: |-
    {{- include "outrider.policy.refusal" . | nindent 4 }}
{{- end }}

{{- /* One CEL expression: the first thing that is wrong, in the words and the order of sidecar/injector. */ -}}
{{- define "outrider.policy.refusal" -}}
{{- $quantity := "^(0|[1-9][0-9]*)([.][0-9]+)?(m|[kMGTPE]|[KMGTPE]i)?$" -}}
variables.is_configmap && !variables.configmap.matches('^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$')
  ? "annotation outrider.dev/configmap is not the name of a ConfigMap in the pod's namespace"
: variables.is_appPort && (!variables.appPort.matches('^[0-9]{1,5}$') || int(variables.appPort) < 1 || int(variables.appPort) > 65535)
  ? 'annotation outrider.dev/app-port is not a port (write for example "8000")'
: !variables.is_configmap && !variables.is_appPort
  ? 'names neither outrider.dev/configmap (a ConfigMap with the document) nor outrider.dev/app-port (the port of the application)'
: !variables.image.matches('^[a-zA-Z0-9][-a-zA-Z0-9._/:@]{0,511}$') ? 'annotation outrider.dev/image is not an image reference'
: !(variables.logLevel in ['debug', 'info', 'warning', 'error']) ? 'annotation outrider.dev/log-level is none of debug, info, warning, error'
: !variables.cpuRequest.matches('{{ $quantity }}') ? 'annotation outrider.dev/cpu-request is not a quantity such as 50m'
: !variables.memoryRequest.matches('{{ $quantity }}') ? 'annotation outrider.dev/memory-request is not a quantity such as 64Mi'
: !variables.memoryLimit.matches('{{ $quantity }}') ? 'annotation outrider.dev/memory-limit is not a quantity such as 256Mi'
: !variables.configmapKey.matches('^[-._a-zA-Z0-9]{1,253}$') ? 'annotation outrider.dev/configmap-key is not a key of a ConfigMap'
: !(variables.nativeWord in ['auto', 'enabled', 'disabled']) ? 'annotation outrider.dev/native-sidecar is none of auto, enabled, disabled'
: !(variables.proxyWord in ['true', 'false']) ? 'annotation outrider.dev/outbound-proxy-env is none of true, false'
: variables.proxyWord == 'true' && !variables.is_configmap
  ? 'annotation outrider.dev/outbound-proxy-env needs outrider.dev/configmap (a document with a Forward listener on port 15002; without one there is no way out)'
: quantity(variables.memoryRequest).isGreaterThan(quantity(variables.memoryLimit))
  ? 'the memory request ' + variables.memoryRequest + ' is more than the limit ' + variables.memoryLimit + ' (set outrider.dev/memory-request or outrider.dev/memory-limit)'
: variables.is_appPort && int(variables.appPort) in variables.ports
  ? "the application's port " + variables.appPort + " is one of the sidecar's own (move the application)"
{{- range $list := list "variables.inits" "object.spec.containers" }}
: {{ $list }}.exists(c, c.name == 'outrider')
  ? "a container is called outrider, which is the sidecar's name (rename it)"
: {{ $list }}.exists(c, has(c.ports) && c.ports.exists(p, p.containerPort in variables.ports))
  ? {{ $list }}.filter(c, has(c.ports) && c.ports.exists(p, p.containerPort in variables.ports)).map(c,
      'container ' + c.name + ' has the port ' + string(c.ports.filter(p, p.containerPort in variables.ports)[0].containerPort) + ", which is the sidecar's (move it)")[0]
: {{ $list }}.exists(c, has(c.ports) && c.ports.exists(p, has(p.name) && p.name in ['outrider-in', 'outrider-status']))
  ? {{ $list }}.filter(c, has(c.ports) && c.ports.exists(p, has(p.name) && p.name in ['outrider-in', 'outrider-status'])).map(c,
      'container ' + c.name + ' has a port called ' + c.ports.filter(p, has(p.name) && p.name in ['outrider-in', 'outrider-status'])[0].name + ", which is the sidecar's name for one (rename it)")[0]
{{- end }}
: has(object.spec.volumes) && object.spec.volumes.exists(v, v.name in ['outrider-config', 'outrider-state', 'outrider-kube-api-access'])
  ? 'a volume is called ' + object.spec.volumes.filter(v, v.name in ['outrider-config', 'outrider-state', 'outrider-kube-api-access'])[0].name + ", which is the sidecar's name for one (rename it)"
: ''
{{- end }}
