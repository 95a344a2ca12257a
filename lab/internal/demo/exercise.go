package demo

// The YAML and the commands of the hands-on exercise, as it prints them.

const webYAML = `apiVersion: apps/v1
kind: Deployment
metadata:
  name: web
spec:
  replicas: 3
  selector:
    matchLabels:
      app: web
  template:
    metadata:
      labels:
        app: web
    spec:
      containers:
      - name: nginx
        image: nginx:alpine
        imagePullPolicy: IfNotPresent
        ports:
        - containerPort: 80
---
apiVersion: v1
kind: Service
metadata:
  name: web
spec:
  selector:
    app: web
  ports:
  - port: 80
    targetPort: 80
`

const denyYAML = `apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: default-deny-ingress
spec:
  podSelector: {}
  policyTypes:
  - Ingress
`

const allowYAML = `apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: allow-client-to-web
spec:
  podSelector:
    matchLabels:
      app: web
  policyTypes:
  - Ingress
  ingress:
  - from:
    - podSelector:
        matchLabels:
          run: client
    ports:
    - protocol: TCP
      port: 80
`

// agentMemoryLimit is the most resident memory an agent may have, in KiB.
const agentMemoryLimit = 50 * 1024

// exercise walks through the hands-on exercise and judges its seven
// criteria, and two of ours.
func exercise(w *walk) {
	w.chapter("Part 1: a cluster without networking")
	w.show("kubectl get nodes")
	w.chapter("Part 2: deploy kube-router with all features")
	w.must("kubectl apply -f " + w.manifest)
	w.must("kubectl -n kube-system rollout status daemonset/kube-router --timeout=180s")
	w.must("kubectl -n kube-system wait --for=condition=Ready pod -l k8s-app=kube-router --timeout=120s")
	w.must("kubectl wait --for=condition=Ready node --all --timeout=120s")
	w.judgeNodes(w.show("kubectl get nodes"))
	w.must("kubectl -n kube-system rollout status deployment/coredns --timeout=180s")

	w.chapter("Part 3: BGP")
	w.judgeRoutes()
	w.show("kubectl -n kube-system exec " + w.firstAgent() + " -- gobgp neighbor")

	w.chapter("Part 4: workloads and IPVS")
	w.must("kubectl create namespace test")
	w.apply(webYAML)
	w.must("kubectl -n test wait --for=condition=Ready pod -l app=web --timeout=60s")
	w.must("kubectl -n test run client --image=busybox:1.36 --image-pull-policy=IfNotPresent --restart=Never -- sleep 3600")
	w.must("kubectl -n test run unauthorized --image=busybox:1.36 --image-pull-policy=IfNotPresent --restart=Never -- sleep 3600")
	w.must("kubectl -n test wait --for=condition=Ready pod/client --timeout=30s")
	w.judgeVirtualServer()
	w.judgeReachable()

	w.chapter("Part 5: NetworkPolicy")
	w.must("kubectl -n test wait --for=condition=Ready pod/unauthorized --timeout=30s")
	w.apply(denyYAML)
	w.judgeBlocked(critDeny, "client", "default deny is in force")
	w.apply(allowYAML)
	w.judgeAllowed()
	w.judgeBlocked(critUnauthorized, "unauthorized", "only the client is allowed")

	w.chapter("Part 6: under the hood")
	agent := "kubectl -n kube-system exec " + w.firstAgent() + " -- "
	w.show(agent + "ipset list -name | head -20")
	w.show(agent + `iptables -L -n -v 2>/dev/null | grep -A5 "KUBE-ROUTER" | head -30`)
	w.show(agent + "ipvsadm -Ln --stats | head -20")
	w.judgeMemory()
	w.judgeStatus(agent + "kube-router status")
}
