{{- /* Generated from sidecar/injector/podspec.py by `make charts`: change that file, not this one. */ -}}
{{- define "outrider.cel.container" -}}
{
  "name": dyn("outrider"),
  "image": dyn(variables.image),
  "imagePullPolicy": dyn(variables.imagePullPolicy),
  ?"restartPolicy": variables.is_native ? optional.of(dyn("Always")) : optional.none(),
  "args": dyn([
    dyn("run")
  ]),
  "env": dyn([
    dyn({
      "name": dyn("POD_NAME"),
      "valueFrom": dyn({
        "fieldRef": dyn({
          "apiVersion": dyn("v1"),
          "fieldPath": dyn("metadata.name")
        })
      })
    }),
    dyn({
      "name": dyn("POD_NAMESPACE"),
      "valueFrom": dyn({
        "fieldRef": dyn({
          "apiVersion": dyn("v1"),
          "fieldPath": dyn("metadata.namespace")
        })
      })
    }),
    dyn({
      "name": dyn("POD_UID"),
      "valueFrom": dyn({
        "fieldRef": dyn({
          "apiVersion": dyn("v1"),
          "fieldPath": dyn("metadata.uid")
        })
      })
    }),
    dyn({
      "name": dyn("POD_IP"),
      "valueFrom": dyn({
        "fieldRef": dyn({
          "apiVersion": dyn("v1"),
          "fieldPath": dyn("status.podIP")
        })
      })
    }),
    dyn({
      "name": dyn("NODE_NAME"),
      "valueFrom": dyn({
        "fieldRef": dyn({
          "apiVersion": dyn("v1"),
          "fieldPath": dyn("spec.nodeName")
        })
      })
    }),
    dyn({
      "name": dyn("HOST_IP"),
      "valueFrom": dyn({
        "fieldRef": dyn({
          "apiVersion": dyn("v1"),
          "fieldPath": dyn("status.hostIP")
        })
      })
    }),
    dyn({
      "name": dyn("NODE_ZONE"),
      "valueFrom": dyn({
        "fieldRef": dyn({
          "apiVersion": dyn("v1"),
          "fieldPath": dyn("metadata.labels['topology.kubernetes.io/zone']")
        })
      })
    }),
    dyn({
      "name": dyn("OTEL_SERVICE_NAME"),
      "valueFrom": dyn({
        "fieldRef": dyn({
          "apiVersion": dyn("v1"),
          "fieldPath": dyn("metadata.labels['app.kubernetes.io/name']")
        })
      })
    }),
    dyn({
      "name": dyn("OTEL_RESOURCE_ATTRIBUTES"),
      "value": dyn("k8s.pod.name=$(POD_NAME),k8s.pod.uid=$(POD_UID),k8s.namespace.name=$(POD_NAMESPACE),k8s.node.name=$(NODE_NAME),k8s.container.name=outrider,service.instance.id=$(POD_NAMESPACE).$(POD_NAME).outrider")
    }),
    ?(variables.is_otlp ? optional.of(dyn({
      "name": dyn("OTEL_EXPORTER_OTLP_ENDPOINT"),
      "value": dyn(variables.otlpEndpoint)
    })) : optional.none()),
    dyn({
      "name": dyn("OUTRIDER_LOG_LEVEL"),
      "value": dyn(variables.logLevel)
    }),
    ?(variables.is_appPort ? optional.of(dyn({
      "name": dyn("OUTRIDER_APP_PORT"),
      "value": dyn(variables.appPort)
    })) : optional.none()),
    ?(variables.is_configmap ? optional.of(dyn({
      "name": dyn("OUTRIDER_CONFIG"),
      "value": dyn("/etc/outrider/sidecar.yaml")
    })) : optional.none()),
    ?(variables.is_configmap ? optional.of(dyn({
      "name": dyn("OUTRIDER_CONFIGMAP"),
      "value": dyn(variables.configmap)
    })) : optional.none()),
    ?(variables.is_configmap ? optional.of(dyn({
      "name": dyn("OUTRIDER_CONFIGMAP_KEY"),
      "value": dyn(variables.configmapKey)
    })) : optional.none())
  ]),
  "ports": dyn([
    dyn({
      "name": dyn("outrider-in"),
      "containerPort": dyn(15001),
      "protocol": dyn("TCP")
    }),
    dyn({
      "name": dyn("outrider-status"),
      "containerPort": dyn(15021),
      "protocol": dyn("TCP")
    })
  ]),
  "startupProbe": dyn({
    "httpGet": dyn({
      "path": dyn("/startupz"),
      "port": dyn(15021),
      "scheme": dyn("HTTP")
    }),
    "periodSeconds": dyn(1),
    "timeoutSeconds": dyn(1),
    "failureThreshold": dyn(120)
  }),
  "readinessProbe": dyn({
    "httpGet": dyn({
      "path": dyn("/readyz"),
      "port": dyn(15021),
      "scheme": dyn("HTTP")
    }),
    "periodSeconds": dyn(5),
    "timeoutSeconds": dyn(2),
    "failureThreshold": dyn(3)
  }),
  "livenessProbe": dyn({
    "httpGet": dyn({
      "path": dyn("/livez"),
      "port": dyn(15021),
      "scheme": dyn("HTTP")
    }),
    "periodSeconds": dyn(10),
    "timeoutSeconds": dyn(3),
    "failureThreshold": dyn(6)
  }),
  "lifecycle": dyn({
    ?"postStart": !variables.is_native ? optional.of(dyn({
      "exec": dyn({
        "command": dyn([
          dyn("outrider"),
          dyn("wait"),
          dyn("--timeout"),
          dyn("120s")
        ])
      })
    })) : optional.none(),
    "preStop": dyn({
      "exec": dyn({
        "command": dyn([
          dyn("outrider"),
          dyn("drain")
        ])
      })
    })
  }),
  ?"resources": !variables.is_podResources ? optional.of(dyn({
    "requests": dyn({
      "cpu": dyn(variables.is_guaranteed ? variables.guaranteedCpu : variables.cpuRequest),
      "memory": dyn(variables.is_guaranteed ? variables.memoryLimit : variables.memoryRequest)
    }),
    "limits": dyn({
      ?"cpu": variables.is_guaranteed ? optional.of(dyn(variables.guaranteedCpu)) : optional.none(),
      "memory": dyn(variables.memoryLimit)
    })
  })) : optional.none(),
  "securityContext": dyn({
    "runAsNonRoot": dyn(true),
    ?"runAsUser": variables.is_root ? optional.of(dyn(65532)) : optional.none(),
    "privileged": dyn(false),
    "allowPrivilegeEscalation": dyn(false),
    "readOnlyRootFilesystem": dyn(true),
    "capabilities": dyn({
      "drop": dyn([
        dyn("ALL")
      ])
    }),
    "seccompProfile": dyn({
      "type": dyn("RuntimeDefault")
    })
  }),
  "terminationMessagePolicy": dyn("FallbackToLogsOnError"),
  "volumeMounts": dyn([
    ?(variables.is_configmap ? optional.of(dyn({
      "name": dyn("outrider-config"),
      "mountPath": dyn("/etc/outrider"),
      "readOnly": dyn(true)
    })) : optional.none()),
    dyn({
      "name": dyn("outrider-state"),
      "mountPath": dyn("/var/lib/outrider")
    }),
    dyn({
      "name": dyn("outrider-kube-api-access"),
      "mountPath": dyn("/var/run/secrets/kubernetes.io/serviceaccount"),
      "readOnly": dyn(true)
    })
  ])
}
{{- end }}
{{- define "outrider.cel.volumes" -}}
[
  ?(variables.is_configmap ? optional.of(dyn({
    "name": dyn("outrider-config"),
    "configMap": dyn({
      "name": dyn(variables.configmap),
      "items": dyn([
        dyn({
          "key": dyn(variables.configmapKey),
          "path": dyn("sidecar.yaml")
        })
      ]),
      "defaultMode": dyn(292),
      "optional": dyn(true)
    })
  })) : optional.none()),
  dyn({
    "name": dyn("outrider-state"),
    "emptyDir": dyn({
      "sizeLimit": dyn("32Mi")
    })
  }),
  dyn({
    "name": dyn("outrider-kube-api-access"),
    "projected": dyn({
      "defaultMode": dyn(292),
      "sources": dyn([
        ?(variables.is_configmap ? optional.of(dyn({
          "serviceAccountToken": dyn({
            "path": dyn("token"),
            "expirationSeconds": dyn(3607)
          })
        })) : optional.none()),
        ?(variables.is_configmap ? optional.of(dyn({
          "configMap": dyn({
            "name": dyn("kube-root-ca.crt"),
            "items": dyn([
              dyn({
                "key": dyn("ca.crt"),
                "path": dyn("ca.crt")
              })
            ]),
            "optional": dyn(true)
          })
        })) : optional.none()),
        dyn({
          "downwardAPI": dyn({
            "items": dyn([
              dyn({
                "path": dyn("namespace"),
                "fieldRef": dyn({
                  "apiVersion": dyn("v1"),
                  "fieldPath": dyn("metadata.namespace")
                })
              })
            ])
          })
        })
      ])
    })
  })
]
{{- end }}
{{- define "outrider.cel.applicationEnv" -}}
[{"name": "HTTP_PROXY", "value": "http://127.0.0.1:15002"}, {"name": "http_proxy", "value": "http://127.0.0.1:15002"}, {"name": "NO_PROXY", "value": "localhost,127.0.0.1,::1"}, {"name": "no_proxy", "value": "localhost,127.0.0.1,::1"}]
{{- end }}
