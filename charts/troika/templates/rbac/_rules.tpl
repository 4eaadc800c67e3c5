{{/* What the operator's code does to jobs and to what belongs to them; a test compares the two. */}}
{{- define "troika.rules" -}}
- apiGroups: [troika.dev]
  resources: [pretrainjobs, finetunejobs]
  verbs: [get, list, watch]
- apiGroups: [troika.dev]
  resources: [pretrainjobs/status, finetunejobs/status]
  verbs: [patch]
- apiGroups: [batch]
  resources: [jobs]
  verbs: [get, list, watch, create, delete]
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch]
- apiGroups: [scheduling.k8s.io]
  resources: [podgroups]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [services, configmaps]
  verbs: [get, create, patch, delete]
- apiGroups: [""]
  resources: [events]
  verbs: [list]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create]
{{- end }}

{{/* Create cannot be bound to a name: the object has none yet when the request is judged. */}}
{{- define "troika.leaderRules" -}}
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  verbs: [create]
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  resourceNames: [{{ include "troika.fullname" . }}]
  verbs: [get, update]
{{- end }}
