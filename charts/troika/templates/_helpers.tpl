{{- define "troika.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* Name of every object: the release's, with the chart's where that does not contain it. */}}
{{- define "troika.fullname" -}}
{{- $name := include "troika.name" . }}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" }}
{{- else if contains $name .Release.Name }}
{{- .Release.Name | trunc 63 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 63 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{/* Labels that select the pod: immutable in a Deployment, so nothing that an upgrade changes. */}}
{{- define "troika.selectorLabels" -}}
app.kubernetes.io/name: {{ include "troika.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "troika.labels" -}}
{{ include "troika.selectorLabels" . }}
app.kubernetes.io/component: operator
app.kubernetes.io/part-of: troika
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "troika.serviceAccountName" -}}
{{- $default := ternary (include "troika.fullname" .) "default" .Values.serviceAccount.create }}
{{- default $default .Values.serviceAccount.name }}
{{- end }}

{{/* A dict of registry, repository, tag and digest as an image reference. */}}
{{- define "troika.image" -}}
{{- with .registry }}{{ trimSuffix "/" . }}/{{ end }}{{ .repository }}
{{- if .digest }}@{{ .digest }}{{ else }}:{{ .tag }}{{ end }}
{{- end }}

{{- define "troika.operatorImage" -}}
{{- include "troika.image" (dict
  "registry" .Values.image.registry
  "repository" .Values.image.repository
  "tag" (default .Chart.AppVersion .Values.image.tag)
  "digest" .Values.image.digest) }}
{{- end }}

{{- define "troika.trainerImage" -}}
{{- $trainer := .Values.trainer.image }}
{{- include "troika.image" (dict
  "registry" (default .Values.image.registry $trainer.registry)
  "repository" $trainer.repository
  "tag" (coalesce $trainer.tag .Values.image.tag .Chart.AppVersion)
  "digest" $trainer.digest) }}
{{- end }}

{{/* "true" where several operators have to agree on which one acts. */}}
{{- define "troika.elects" -}}
{{- gt (int .Values.replicas) 1 }}
{{- end }}

{{/* A number or text as text. Plain printing makes 2.5e+07 of 25000000: Helm's numbers are floats. */}}
{{- define "troika.text" -}}
{{- if not (kindIs "invalid" .) }}{{ toJson . | trimAll "\"" }}{{ end }}
{{- end }}
