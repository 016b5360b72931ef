{{- /* Values that contradict each other or the cluster end the render, with what to do. */ -}}
{{- define "outrider.checks" -}}
{{- $apis := .Capabilities.APIVersions }}
{{- $version := .Capabilities.KubeVersion.Version }}
{{- $offline := "(without a cluster, as with `helm template`, say so with --api-versions or --kube-version)" }}
{{- $mode := .Values.injection.mode }}
{{- $policies := or ($apis.Has "admissionregistration.k8s.io/v1/MutatingAdmissionPolicy") ($apis.Has "admissionregistration.k8s.io/v1beta1/MutatingAdmissionPolicy") }}
{{- if and (eq $mode "AdmissionPolicy") (not $policies) (semverCompare "<1.36.0-0" $version) }}
{{- fail (printf "injection.mode: AdmissionPolicy needs MutatingAdmissionPolicy, which Kubernetes has since 1.36; this cluster is %s. Use Webhook %s" $version $offline) }}
{{- end }}
{{- if .Values.injection.requireSidecar.enabled }}
{{- if eq $mode "None" }}{{ fail "injection.requireSidecar.enabled with injection.mode: None would keep out pods that nothing gives a sidecar" }}{{ end }}
{{- if semverCompare "<1.30.0-0" $version }}
{{- fail (printf "injection.requireSidecar needs ValidatingAdmissionPolicy, which Kubernetes has since 1.30; this cluster is %s %s" $version $offline) }}
{{- end }}
{{- end }}
{{- if eq $mode "Webhook" }}
{{- with .Values.injector.certificates }}
{{- if and (eq .mode "Secret") (not (and .secretName .caBundle)) }}
{{- fail "injector.certificates.mode: Secret needs secretName (a Secret with tls.crt and tls.key) and caBundle (PEM)" }}
{{- end }}
{{- if and (ne .mode "Secret") (or .secretName .caBundle) }}
{{- fail (printf "injector.certificates.secretName and caBundle are for mode Secret, not for %s" .mode) }}
{{- end }}
{{- if and (ne .mode "CertManager") .issuerRef }}
{{- fail (printf "injector.certificates.issuerRef is for mode CertManager, not for %s" .mode) }}
{{- end }}
{{- if and (eq .mode "CertManager") (not ($apis.Has "cert-manager.io/v1")) }}
{{- fail (printf "injector.certificates.mode: CertManager needs cert-manager (cert-manager.io/v1), which this cluster does not have. Use Self %s" $offline) }}
{{- end }}
{{- end }}
{{- if not (or .Values.injector.serviceAccount.create .Values.injector.serviceAccount.name) }}
{{- fail "injector.serviceAccount.create: false needs injector.serviceAccount.name" }}
{{- end }}
{{- end }}
{{- if and .Values.rbac.applicationNamespaces (not .Values.rbac.create) }}
{{- fail "rbac.applicationNamespaces has no effect with rbac.create: false" }}
{{- end }}
{{- with .Values.metrics }}
{{- if and (or .podMonitor.enabled .prometheusRule.enabled) (not ($apis.Has "monitoring.coreos.com/v1")) }}
{{- fail (printf "metrics.podMonitor and metrics.prometheusRule need the Prometheus Operator (monitoring.coreos.com/v1), which this cluster does not have %s" $offline) }}
{{- end }}
{{- if and .prometheusRule.slo.enabled (not .prometheusRule.enabled) }}
{{- fail "metrics.prometheusRule.slo.enabled has no effect without metrics.prometheusRule.enabled" }}
{{- end }}
{{- end }}
{{- end }}
