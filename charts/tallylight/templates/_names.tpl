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

{{/* The labels of every object, and some of its own. */}}
{{- define "tallylight.labels.with" -}}
{{- include "tallylight.labels" (index . 0) }}
{{- with index . 1 }}
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

{{/* Where media nodes pass REST on to; empty when they do not. */}}
{{- define "tallylight.rest.upstream" -}}
{{- if and .Values.mediaNode.forwardREST .Values.operator.rest.tokenSecret.name -}}
http://tallylight-operator.{{ .Release.Namespace }}.svc:{{ .Values.operator.rest.port }}
{{- end -}}
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
  {{- if include "tallylight.tls" $ }}
  volumes:
  {{- include "tallylight.tls.volume" $ | nindent 2 }}
  volumeMounts:
  {{- include "tallylight.tls.mount" $ | nindent 2 }}
  {{- end }}
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
  {{- if include "tallylight.tls" $ }}
  {{- include "tallylight.tls.env" $ | nindent 2 }}
  {{- end }}
  {{- with .env }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
  {{- include "tallylight.placement" . | nindent 2 }}
{{- end }}
{{- end }}

{{/* RTMP and HTTP over TLS. The ports are of the pods; the Services have those that users see. */}}
{{- define "tallylight.rtmps.port" -}}1936{{- end }}
{{- define "tallylight.https.port" -}}5443{{- end }}

{{/* Whether media nodes need a certificate. */}}
{{- define "tallylight.tls" -}}
{{- if or .Values.mediaNode.rtmps.enabled .Values.mediaNode.https.enabled }}true{{ end -}}
{{- end }}

{{- define "tallylight.tls.env" -}}
{{- if .Values.mediaNode.rtmps.enabled -}}
- name: TALLYLIGHT_RTMPS_ADDRESS
  value: 0.0.0.0:{{ include "tallylight.rtmps.port" . }}
{{ end -}}
{{- if .Values.mediaNode.https.enabled -}}
- name: TALLYLIGHT_PUBLIC_HTTPS_ADDRESS
  value: 0.0.0.0:{{ include "tallylight.https.port" . }}
{{ end -}}
- name: TALLYLIGHT_TLS_CERT
  value: /etc/tallylight/tls/tls.crt
- name: TALLYLIGHT_TLS_KEY
  value: /etc/tallylight/tls/tls.key
{{- end }}

{{- define "tallylight.tls.volume" -}}
- name: tls
  secret:
    secretName: {{ required "mediaNode.rtmps.secretName must name the Secret with the certificate" .Values.mediaNode.rtmps.secretName }}
    defaultMode: 288 # 0440, in the form that every YAML reader reads alike
{{- end }}

{{- define "tallylight.tls.mount" -}}
- name: tls
  mountPath: /etc/tallylight/tls
  readOnly: true
{{- end }}

{{/* Whether the media nodes serve WebRTC. */}}
{{- define "tallylight.webrtc" -}}
{{- if eq .Values.mediaPool.webRTC.mode "On" }}true{{ end -}}
{{- end }}

{{/* Whether the media nodes serve HTTP to publishers and players: HLS, WHIP and WHEP, recordings. */}}
{{- define "tallylight.media.players" -}}
{{- if or (ne .Values.mediaPool.hls.mode "Off") (include "tallylight.webrtc" .) .Values.mediaPool.storages (ne (dig "mode" "Off" .Values.mediaPool.recording) "Off") }}true{{ end -}}
{{- end }}

{{/* Whether they serve HTTP to users: players, clients of REST or both. */}}
{{- define "tallylight.media.http" -}}
{{- if or (include "tallylight.media.players" .) (include "tallylight.rest.upstream" .) }}true{{ end -}}
{{- end }}

{{/* The MediaPool of the values, whoever applies it. */}}
{{- define "tallylight.pool" -}}
apiVersion: tallylight.dev/v1alpha1
kind: MediaPool
metadata:
  name: {{ .Values.mediaPool.name }}
  namespace: {{ .Release.Namespace }}
  labels:
    {{- include "tallylight.labels" . | nindent 4 }}
spec:
  app: {{ .Values.mediaPool.app }}
  admission: {{ .Values.mediaPool.admission }}
  reconnectWindowSeconds: {{ .Values.mediaPool.reconnectWindowSeconds }}
  hls:
    {{- toYaml .Values.mediaPool.hls | nindent 4 }}
  {{- with .Values.mediaPool.webRTC }}
  webRTC:
    mode: {{ .mode | quote }}
    port: {{ .port }}
    {{- with .exposure }}
    exposure: {{ . }}
    {{- end }}
    {{- with .advertise }}
    advertise:
      {{- toYaml . | nindent 6 }}
    {{- end }}
    {{- with .iceServers }}
    iceServers:
      {{- toYaml . | nindent 6 }}
    {{- end }}
  {{- end }}
  {{- with .Values.mediaPool.listenerHookURL }}
  listenerHookURL: {{ . | quote }}
  {{- end }}
  {{- with .Values.mediaPool.hooks }}
  hooks:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.mediaPool.recording }}
  recording:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.mediaPool.storages }}
  storages:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- if eq .Values.mediaNode.managedBy "Operator" }}
  nodes:
    {{- mustMergeOverwrite (include "tallylight.pool.nodes" . | fromYaml) (deepCopy .Values.mediaPool.nodes) | toYaml | nindent 4 }}
  {{- end }}
{{- end }}

{{/*
Who applies the pool: Helm cannot make an object whose definition comes with the same release, so the operator does, from a
ConfigMap. A pool that a release of 0.1 made itself stays Helm's: it must not be deleted in an upgrade.
*/}}
{{- define "tallylight.pool.owner" -}}
{{- $owner := "operator" -}}
{{- if and .Release.IsUpgrade (.Capabilities.APIVersions.Has "tallylight.dev/v1alpha1/MediaPool") -}}
{{- $pool := lookup "tallylight.dev/v1alpha1" "MediaPool" .Release.Namespace .Values.mediaPool.name -}}
{{- if $pool -}}
{{- if eq (dig "annotations" "meta.helm.sh/release-name" "" $pool.metadata) .Release.Name -}}
{{- $owner = "helm" -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $owner -}}
{{- end }}

{{/*
The pool's storages for a Deployment, as the operator has them for the nodes that it makes: each is a URL, and its claim or its
credentials are mounted.
*/}}
{{- define "tallylight.storages.env" -}}
{{- $urls := list -}}
{{- range .Values.mediaPool.storages -}}
{{- $url := "" -}}
{{- if .s3 -}}
{{- $options := list -}}
{{- with .s3.endpoint }}{{ $options = append $options (printf "endpoint=%s" (urlquery .)) }}{{ end -}}
{{- with .s3.region }}{{ $options = append $options (printf "region=%s" (urlquery .)) }}{{ end -}}
{{- with .s3.pathStyle }}{{ $options = append $options (printf "path-style=%t" (eq . "Enabled")) }}{{ end -}}
{{- with .s3.serverSideEncryption }}{{ if ne . "None" }}{{ $options = append $options (printf "sse=%s" (urlquery .)) }}{{ end }}{{ end -}}
{{- with .s3.kmsKeyID }}{{ $options = append $options (printf "kms-key-id=%s" (urlquery .)) }}{{ end -}}
{{- with .s3.acl }}{{ $options = append $options (printf "acl=%s" (urlquery .)) }}{{ end -}}
{{- with .s3.maxMegabitsPerSecond }}{{ $options = append $options (printf "max-mbps=%d" (int .)) }}{{ end -}}
{{- if .s3.secretRef }}{{ $options = append $options (printf "credentials-dir=%s" (urlquery (printf "/etc/tallylight/storage/%s" .name))) }}{{ end -}}
{{- $url = printf "s3://%s" .s3.bucket -}}
{{- with .s3.prefix }}{{ $url = printf "%s/%s" $url . }}{{ end -}}
{{- with $options }}{{ $url = printf "%s?%s" $url (join "&" .) }}{{ end -}}
{{- else -}}
{{- if not .volume.claimName -}}
{{- fail (printf "the storage %s is a path of the nodes, and nothing is mounted there in those of a Deployment: give it a claimName, or let the operator make the nodes (mediaNode.managedBy=Operator)" .name) -}}
{{- end -}}
{{- $url = printf "file:///var/lib/tallylight-storage/%s" .name -}}
{{- with .volume.path }}{{ $url = printf "%s/%s" $url . }}{{ end -}}
{{- end -}}
{{- $urls = append $urls (printf "%s=%s" .name $url) -}}
{{- end -}}
- name: TALLYLIGHT_STORAGES
  value: {{ join "," $urls | quote }}
{{- end }}

{{- define "tallylight.storages.volumes" -}}
{{- range .Values.mediaPool.storages }}
{{- if dig "s3" "secretRef" false . }}
- name: storage-{{ .name }}
  secret:
    secretName: {{ .s3.secretRef.name }}
    defaultMode: 288 # 0440, in the form that every YAML reader reads alike
{{- else if .volume }}
- name: storage-{{ .name }}
  persistentVolumeClaim:
    claimName: {{ .volume.claimName }}
{{- end }}
{{- end }}
{{- end }}

{{- define "tallylight.storages.mounts" -}}
{{- range .Values.mediaPool.storages }}
{{- if dig "s3" "secretRef" false . }}
- name: storage-{{ .name }}
  mountPath: /etc/tallylight/storage/{{ .name }}
  readOnly: true
{{- else if .volume }}
- name: storage-{{ .name }}
  mountPath: /var/lib/tallylight-storage/{{ .name }}
{{- end }}
{{- end }}
{{- end }}
