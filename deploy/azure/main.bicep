// What a gateway on Azure needs: Realtime deployments, an identity that may use them and is the pods' own, a Redis that
// replicas share, a cluster and a registry. No key of Azure OpenAI exists: it takes tokens only.
//
//   az group create --name voice --location swedencentral
//   az deployment group create --resource-group voice --template-file deploy/azure/main.bicep

targetScope = 'resourceGroup'

@description('What all names begin with.')
@minLength(3)
@maxLength(12)
param name string = 'trunkline'

@description('Where everything is; the Realtime models must be offered there.')
param location string = resourceGroup().location

@description('The Realtime deployments: name, model, version, kind of capacity, and how much of it.')
param realtimeDeployments array = [
  {
    name: 'gpt-realtime'
    model: 'gpt-realtime'
    version: '2025-08-28'
    sku: 'GlobalStandard'
    capacity: 10
  }
]

@description('The namespace and service account that the gateway runs as.')
param namespace string = 'trunkline'
param serviceAccount string = 'trunkline'

@description('Entra ID groups whose members administer the cluster.')
param adminGroupObjectIds array = []

@description('Networks from which the cluster is administered, as in 203.0.113.0/24; everywhere if empty.')
param authorizedIpRanges array = []

@description('Whether replicas share a Redis; without, each counts for itself.')
param deployRedis bool = true

@description('The size of nodes, and how many there may be.')
param nodeSize string = 'Standard_D4ds_v5'
param minNodes int = 2
param maxNodes int = 10

var suffix = uniqueString(resourceGroup().id)
var tags = {
  application: 'trunkline'
}

module identity 'identity.bicep' = {
  name: 'identity'
  params: {
    name: '${name}-gateway'
    location: location
    tags: tags
    issuerUrl: cluster.outputs.issuerUrl
    subject: 'system:serviceaccount:${namespace}:${serviceAccount}'
  }
}

module openai 'openai.bicep' = {
  name: 'openai'
  params: {
    name: '${name}-${suffix}'
    location: location
    tags: tags
    deployments: realtimeDeployments
    userPrincipalId: identity.outputs.principalId
  }
}

module redis 'redis.bicep' = if (deployRedis) {
  name: 'redis'
  params: {
    name: '${name}-${suffix}'
    location: location
    tags: tags
  }
}

module cluster 'cluster.bicep' = {
  name: 'cluster'
  params: {
    name: name
    location: location
    tags: tags
    registryName: replace('${name}${suffix}', '-', '')
    adminGroupObjectIds: adminGroupObjectIds
    authorizedIpRanges: authorizedIpRanges
    nodeSize: nodeSize
    minNodes: minNodes
    maxNodes: maxNodes
  }
}

@description('[deployments.NAME] url')
output openaiUrl string = openai.outputs.url

@description('azureWorkloadIdentity.clientId of the chart')
output clientId string = identity.outputs.clientId

@description('Host and port of Redis; its key is had by `az redisenterprise database list-keys`.')
output redisHost string = deployRedis ? '${redis!.outputs.host}:10000' : ''

output clusterName string = cluster.outputs.name
output registry string = cluster.outputs.registry
