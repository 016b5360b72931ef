{{- /* Fails when something of the pod is in the sidecar's way. Context: spec, appPort. The rules of sidecar/injector/patch.py. */ -}}
{{- define "outrider-lib.check" -}}
{{- $ports := list 15001 15002 15021 15020 }}
{{- if and .appPort (has (atoi .appPort) $ports) }}
{{- fail (printf "the application's port %s is one of the sidecar's own (move the application)" .appPort) }}
{{- end }}
{{- range concat (.spec.initContainers | default list) (.spec.containers | default list) }}
{{- if eq .name "outrider" }}{{ fail "a container is called outrider, which is the sidecar's name (rename it)" }}{{ end }}
{{- $name := .name }}
{{- range .ports }}
{{- if has (int .containerPort) $ports }}{{ fail (printf "container %s has the port %d, which is the sidecar's (move it)" $name (int .containerPort)) }}{{ end }}
{{- if has .name (list "outrider-in" "outrider-status") }}{{ fail (printf "container %s has a port called %s, which is the sidecar's name for one (rename it)" $name .name) }}{{ end }}
{{- end }}
{{- end }}
{{- range .spec.volumes }}
{{- if has .name (list "outrider-config" "outrider-state" "outrider-kube-api-access") }}{{ fail (printf "a volume is called %s, which is the sidecar's name for one (rename it)" .name) }}{{ end }}
{{- end }}
{{- if .spec.hostNetwork }}{{ fail "the pod is on the host's network, where the sidecar's ports are the node's" }}{{ end }}
{{- if or (eq (dig "os" "name" "" .spec) "windows") (eq (dig "nodeSelector" "kubernetes.io/os" "" .spec) "windows") }}{{ fail "the pod is for Windows" }}{{ end }}
{{- end }}
