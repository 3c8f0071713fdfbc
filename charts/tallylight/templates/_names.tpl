{{- define "tallylight.labels" -}}
app.kubernetes.io/name: tallylight
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* What a Service and a Deployment find their pods by; it never changes in an upgrade. */}}
{{- define "tallylight.operator.selector" -}}
app.kubernetes.io/name: tallylight
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end }}

{{- define "tallylight.media.selector" -}}
app.kubernetes.io/name: tallylight
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: media-node
tallylight.dev/pool: {{ .Values.mediaPool.name }}
{{- end }}

{{- define "tallylight.image" -}}
{{- $image := .image -}}
{{- if $image.digest -}}
{{ $image.repository }}@{{ $image.digest }}
{{- else -}}
{{ $image.repository }}:{{ $image.tag | default .root.Chart.AppVersion }}
{{- end -}}
{{- end }}

{{/* Namespaces with media nodes: the release's own when it has a pool, and those that the operator is confined to. */}}
{{- define "tallylight.media.namespaces" -}}
{{- $namespaces := .Values.watchNamespaces -}}
{{- if .Values.mediaPool.create -}}
{{- if and .Values.watchNamespaces (not (has .Release.Namespace .Values.watchNamespaces)) -}}
{{- fail (printf "the pool is made in namespace %s, which the operator would not see: add it to watchNamespaces, or set mediaPool.create=false" .Release.Namespace) -}}
{{- end -}}
{{- $namespaces = append $namespaces .Release.Namespace | uniq -}}
{{- end -}}
{{- toYaml $namespaces -}}
{{- end }}

{{- define "tallylight.pod.security" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "tallylight.container.security" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{/* The account's token, bound to the pod and renewed by the kubelet, where in-cluster clients look for it. */}}
{{- define "tallylight.token.volume" -}}
- name: token
  projected:
    sources:
    - serviceAccountToken:
        path: token
        expirationSeconds: 3600
    - configMap:
        name: kube-root-ca.crt
        items:
        - key: ca.crt
          path: ca.crt
    - downwardAPI:
        items:
        - path: namespace
          fieldRef:
            fieldPath: metadata.namespace
{{- end }}

{{- define "tallylight.token.mount" -}}
- name: token
  mountPath: /var/run/secrets/kubernetes.io/serviceaccount
  readOnly: true
{{- end }}

{{- define "tallylight.placement" -}}
{{- with .nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end }}

{{- define "tallylight.pull.secrets" -}}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
{{- range . }}
- name: {{ . }}
{{- end }}
{{- end }}
{{- end }}

{{/* What the values of media nodes say in the words of MediaPool.spec.nodes; mediaPool.nodes is laid over it. */}}
{{- define "tallylight.pool.nodes" -}}
{{- with .Values.mediaNode -}}
{{- if eq .service.type "NodePort" -}}
{{- fail "mediaNode.service.type NodePort needs mediaNode.managedBy=Deployment; the operator exposes nodes by mediaPool.nodes.exposure: HostPort, HostNetwork, LoadBalancer or ClusterIP" -}}
{{- end -}}
minNodes: {{ .replicas }}
exposure: {{ .service.type }}
drainTimeoutSeconds: {{ .terminationGracePeriodSeconds }}
service:
  port: {{ .service.rtmpPort }}
  {{- with .service.annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .service.loadBalancerClass }}
  loadBalancerClass: {{ . }}
  {{- end }}
template:
  imagePullPolicy: {{ .image.pullPolicy }}
  {{- with $.Values.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .podAnnotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $.Values.commonLabels }}
  labels:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  resources:
    {{- toYaml .resources | nindent 4 }}
  env:
  - name: TALLYLIGHT_LOG_FORMAT
    value: {{ .logFormat }}
  {{- with .env }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
  {{- include "tallylight.placement" . | nindent 2 }}
{{- end }}
{{- end }}
