{{- /* Generated from sidecar/injector/podspec.py by `make charts`: change that file, not this one. */ -}}
{{- define "outrider-lib.container" -}}
name: "outrider"
image: {{ $.settings.image | quote }}
imagePullPolicy: {{ $.settings.imagePullPolicy | quote }}
{{- if has "native" $.facts }}
restartPolicy: "Always"
{{- end }}
args:
  - "run"
env:
  - name: "POD_NAME"
    valueFrom:
      fieldRef:
        apiVersion: "v1"
        fieldPath: "metadata.name"
  - name: "POD_NAMESPACE"
    valueFrom:
      fieldRef:
        apiVersion: "v1"
        fieldPath: "metadata.namespace"
  - name: "POD_UID"
    valueFrom:
      fieldRef:
        apiVersion: "v1"
        fieldPath: "metadata.uid"
  - name: "POD_IP"
    valueFrom:
      fieldRef:
        apiVersion: "v1"
        fieldPath: "status.podIP"
  - name: "NODE_NAME"
    valueFrom:
      fieldRef:
        apiVersion: "v1"
        fieldPath: "spec.nodeName"
  - name: "HOST_IP"
    valueFrom:
      fieldRef:
        apiVersion: "v1"
        fieldPath: "status.hostIP"
  - name: "NODE_ZONE"
    valueFrom:
      fieldRef:
        apiVersion: "v1"
        fieldPath: "metadata.labels['topology.kubernetes.io/zone']"
  - name: "OTEL_SERVICE_NAME"
    valueFrom:
      fieldRef:
        apiVersion: "v1"
        fieldPath: "metadata.labels['app.kubernetes.io/name']"
  - name: "OTEL_RESOURCE_ATTRIBUTES"
    value: "k8s.pod.name=$(POD_NAME),k8s.pod.uid=$(POD_UID),k8s.namespace.name=$(POD_NAMESPACE),k8s.node.name=$(NODE_NAME),k8s.container.name=outrider,service.instance.id=$(POD_NAMESPACE).$(POD_NAME).outrider"
{{- if has "otlp" $.facts }}
  - name: "OTEL_EXPORTER_OTLP_ENDPOINT"
    value: {{ $.settings.otlpEndpoint | quote }}
{{- end }}
  - name: "OUTRIDER_LOG_LEVEL"
    value: {{ $.settings.logLevel | quote }}
{{- if has "appPort" $.facts }}
  - name: "OUTRIDER_APP_PORT"
    value: {{ $.settings.appPort | quote }}
{{- end }}
{{- if has "configmap" $.facts }}
  - name: "OUTRIDER_CONFIG"
    value: "/etc/outrider/sidecar.yaml"
{{- end }}
{{- if has "configmap" $.facts }}
  - name: "OUTRIDER_CONFIGMAP"
    value: {{ $.settings.configmap | quote }}
{{- end }}
{{- if has "configmap" $.facts }}
  - name: "OUTRIDER_CONFIGMAP_KEY"
    value: {{ $.settings.configmapKey | quote }}
{{- end }}
ports:
  - name: "outrider-in"
    containerPort: 15001
    protocol: "TCP"
  - name: "outrider-status"
    containerPort: 15021
    protocol: "TCP"
startupProbe:
  httpGet:
    path: "/startupz"
    port: 15021
    scheme: "HTTP"
  periodSeconds: 1
  timeoutSeconds: 1
  failureThreshold: 120
readinessProbe:
  httpGet:
    path: "/readyz"
    port: 15021
    scheme: "HTTP"
  periodSeconds: 5
  timeoutSeconds: 2
  failureThreshold: 3
livenessProbe:
  httpGet:
    path: "/livez"
    port: 15021
    scheme: "HTTP"
  periodSeconds: 10
  timeoutSeconds: 3
  failureThreshold: 6
lifecycle:
{{- if not (has "native" $.facts) }}
  postStart:
    exec:
      command:
        - "outrider"
        - "wait"
        - "--timeout"
        - "120s"
{{- end }}
  preStop:
    exec:
      command:
        - "outrider"
        - "drain"
{{- if not (has "podResources" $.facts) }}
resources:
  requests:
    cpu: {{- if has "guaranteed" $.facts }} {{ $.settings.guaranteedCpu | quote }} {{- else }} {{ $.settings.cpuRequest | quote }} {{- end }}
    memory: {{- if has "guaranteed" $.facts }} {{ $.settings.memoryLimit | quote }} {{- else }} {{ $.settings.memoryRequest | quote }} {{- end }}
  limits:
{{- if has "guaranteed" $.facts }}
    cpu: {{ $.settings.guaranteedCpu | quote }}
{{- end }}
    memory: {{ $.settings.memoryLimit | quote }}
{{- end }}
securityContext:
  runAsNonRoot: true
{{- if has "root" $.facts }}
  runAsUser: 65532
{{- end }}
  privileged: false
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop:
      - "ALL"
  seccompProfile:
    type: "RuntimeDefault"
terminationMessagePolicy: "FallbackToLogsOnError"
volumeMounts:
{{- if has "configmap" $.facts }}
  - name: "outrider-config"
    mountPath: "/etc/outrider"
    readOnly: true
{{- end }}
  - name: "outrider-state"
    mountPath: "/var/lib/outrider"
  - name: "outrider-kube-api-access"
    mountPath: "/var/run/secrets/kubernetes.io/serviceaccount"
    readOnly: true
{{- end }}

{{- define "outrider-lib.volumes" -}}
{{- if has "configmap" $.facts }}
- name: "outrider-config"
  configMap:
    name: {{ $.settings.configmap | quote }}
    items:
      - key: {{ $.settings.configmapKey | quote }}
        path: "sidecar.yaml"
    defaultMode: 292
    optional: true
{{- end }}
- name: "outrider-state"
  emptyDir:
    sizeLimit: "32Mi"
- name: "outrider-kube-api-access"
  projected:
    defaultMode: 292
    sources:
{{- if has "configmap" $.facts }}
      - serviceAccountToken:
          path: "token"
          expirationSeconds: 3607
{{- end }}
{{- if has "configmap" $.facts }}
      - configMap:
          name: "kube-root-ca.crt"
          items:
            - key: "ca.crt"
              path: "ca.crt"
          optional: true
{{- end }}
      - downwardAPI:
          items:
            - path: "namespace"
              fieldRef:
                apiVersion: "v1"
                fieldPath: "metadata.namespace"
{{- end }}

{{- define "outrider-lib.applicationEnv" -}}
- name: "HTTP_PROXY"
  value: "http://127.0.0.1:15002"
- name: "http_proxy"
  value: "http://127.0.0.1:15002"
- name: "NO_PROXY"
  value: "localhost,127.0.0.1,::1"
- name: "no_proxy"
  value: "localhost,127.0.0.1,::1"
{{- end }}
