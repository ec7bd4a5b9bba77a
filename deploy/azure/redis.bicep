// Azure Managed Redis: counts and leases that replicas share. A few MB are enough; nothing in it needs a disk.

param name string
param location string
param tags object

resource cluster 'Microsoft.Cache/redisEnterprise@2025-04-01' = {
  name: name
  location: location
  tags: tags
  sku: {
    name: 'Balanced_B0'
  }
  properties: {
    highAvailability: 'Enabled'
    minimumTlsVersion: '1.2'
  }
}

resource database 'Microsoft.Cache/redisEnterprise/databases@2025-04-01' = {
  parent: cluster
  name: 'default'
  properties: {
    clientProtocol: 'Encrypted'
    port: 10000
    // One address, whatever is behind it.
    clusteringPolicy: 'EnterpriseCluster'
    // A key that is evicted is a count that is missing.
    evictionPolicy: 'NoEviction'
    // The gateway shows Redis a password.
    accessKeysAuthentication: 'Enabled'
  }
}

output host string = cluster.properties.hostName
