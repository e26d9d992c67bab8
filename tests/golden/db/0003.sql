BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0003');
CREATE TABLE aliases (
	id INTEGER NOT NULL, 
	base_id INTEGER NOT NULL, 
	scheme VARCHAR(16) NOT NULL, 
	value VARCHAR(1024) NOT NULL, 
	created_at DATETIME NOT NULL, 
	CONSTRAINT pk_aliases PRIMARY KEY (id), 
	CONSTRAINT uq_aliases_scheme_value UNIQUE (scheme, value), 
	CONSTRAINT fk_aliases_base_id_bases FOREIGN KEY(base_id) REFERENCES bases (id), 
	CONSTRAINT ck_aliases_scheme_known CHECK (scheme IN ('name', 'path', 'hub', 'sha256-set'))
);
INSERT INTO "aliases" VALUES(1,1,'path','/models/base','2026-11-21 14:57:20.401040');
INSERT INTO "aliases" VALUES(2,1,'hub','org/base@0000000000000000000000000000000000000000','2026-11-21 14:57:20.418838');
INSERT INTO "aliases" VALUES(3,1,'sha256-set','ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff','2026-11-21 14:57:20.419424');
CREATE TABLE applications (
	id INTEGER NOT NULL, 
	checkpoint_id INTEGER NOT NULL, 
	version_id INTEGER, 
	manifest_digest VARCHAR(71) NOT NULL, 
	kind VARCHAR(64) NOT NULL, 
	alpha DOUBLE, 
	device TEXT NOT NULL, 
	applied_at DATETIME NOT NULL, 
	verified_at DATETIME, 
	evidence TEXT NOT NULL, 
	policy TEXT NOT NULL, 
	CONSTRAINT pk_applications PRIMARY KEY (id), 
	CONSTRAINT fk_applications_checkpoint_id_checkpoints FOREIGN KEY(checkpoint_id) REFERENCES checkpoints (id), 
	CONSTRAINT fk_applications_version_id_versions FOREIGN KEY(version_id) REFERENCES versions (id), 
	CONSTRAINT ck_applications_manifest_digest_digest CHECK (length(manifest_digest) = 71 AND substr(manifest_digest, 1, 7) = 'blake3:' AND ltrim(substr(manifest_digest, 8), '0123456789abcdef') = '')
);
INSERT INTO "applications" VALUES(1,1,3,'blake3:bff3a65c6e1d520c1de5ae6b88d93bc701e5866e21d72506fb02d9113bc1cb97','safety_lock',2.5,'cuda:0','2030-01-01 12:00:00.000000','2030-01-01 12:00:01.000000','{"modules":2,"worst":1e-7}','enforce');
INSERT INTO "applications" VALUES(2,1,NULL,'blake3:76ea1cfe2346880aa77a3909ef798014533fa81db07a990ab98f2fba83f47a8f','safety_lock',NULL,'cpu','2030-01-01 12:00:00.000000',NULL,'{}','warn');
INSERT INTO "applications" VALUES(3,2,3,'blake3:bff3a65c6e1d520c1de5ae6b88d93bc701e5866e21d72506fb02d9113bc1cb97','safety_lock',2.5,'cuda:0','2030-01-01 12:00:00.000000','2030-01-01 12:00:01.000000','{"modules":2,"worst":1e-7}','enforce');
INSERT INTO "applications" VALUES(4,2,NULL,'blake3:76ea1cfe2346880aa77a3909ef798014533fa81db07a990ab98f2fba83f47a8f','safety_lock',NULL,'cpu','2030-01-01 12:00:00.000000',NULL,'{}','warn');
CREATE TABLE artifacts (
	id INTEGER NOT NULL, 
	name VARCHAR(96) NOT NULL, 
	kind VARCHAR(64) NOT NULL, 
	base_id INTEGER NOT NULL, 
	sequence BIGINT DEFAULT '0' NOT NULL, 
	created_at DATETIME NOT NULL, 
	CONSTRAINT pk_artifacts PRIMARY KEY (id), 
	CONSTRAINT uq_artifacts_name UNIQUE (name), 
	CONSTRAINT fk_artifacts_base_id_bases FOREIGN KEY(base_id) REFERENCES bases (id), 
	CONSTRAINT ck_artifacts_sequence_natural CHECK (sequence >= 0)
);
INSERT INTO "artifacts" VALUES(1,'lock','safety_lock',1,0,'2026-11-21 14:57:20.529752');
INSERT INTO "artifacts" VALUES(2,'mask','esi_mask',1,0,'2026-11-21 14:57:20.646723');
CREATE TABLE "bases" (
	id INTEGER NOT NULL, 
	weights VARCHAR(71) NOT NULL, 
	name VARCHAR(255) NOT NULL, 
	family VARCHAR(64) NOT NULL, 
	layers INTEGER NOT NULL, 
	heads INTEGER NOT NULL, 
	kv_heads INTEGER NOT NULL, 
	head_dim INTEGER NOT NULL, 
	hidden_size INTEGER NOT NULL, 
	config_digest VARCHAR(71) NOT NULL, 
	tokenizer VARCHAR(71), 
	chat_template VARCHAR(71), 
	record_blob VARCHAR(71) NOT NULL, 
	created_at DATETIME NOT NULL, 
	probe BLOB, 
	CONSTRAINT pk_bases PRIMARY KEY (id), 
	CONSTRAINT uq_bases_weights UNIQUE (weights), 
	CONSTRAINT ck_bases_config_digest_digest CHECK (length(config_digest) = 71 AND substr(config_digest, 1, 7) = 'blake3:' AND ltrim(substr(config_digest, 8), '0123456789abcdef') = ''), 
	CONSTRAINT ck_bases_weights_digest CHECK (length(weights) = 71 AND substr(weights, 1, 7) = 'blake3:' AND ltrim(substr(weights, 8), '0123456789abcdef') = ''), 
	CONSTRAINT fk_bases_record_blob_blobs FOREIGN KEY(record_blob) REFERENCES blobs (digest), 
	CONSTRAINT uq_bases_name UNIQUE (name), 
	CONSTRAINT ck_bases_tokenizer_digest CHECK (length(tokenizer) = 71 AND substr(tokenizer, 1, 7) = 'blake3:' AND ltrim(substr(tokenizer, 8), '0123456789abcdef') = ''), 
	CONSTRAINT ck_bases_geometry_positive CHECK (layers > 0 AND heads > 0 AND kv_heads > 0 AND head_dim > 0 AND hidden_size > 0), 
	CONSTRAINT ck_bases_chat_template_digest CHECK (length(chat_template) = 71 AND substr(chat_template, 1, 7) = 'blake3:' AND ltrim(substr(chat_template, 8), '0123456789abcdef') = ''), 
	CONSTRAINT ck_bases_probe_size CHECK (length(probe) = 1024)
);
INSERT INTO "bases" VALUES(1,'blake3:de8f3fcf327eb911b2c368e011e0ffdee22fed456b4f4508337018ba46a0639d','base','llama',2,4,2,16,64,'blake3:fb481ae1bca52b5022f9d199732bef6f923eb13a85c83ea8cbec823274f41ad7','blake3:3b50f290e0da181db5eb6761a08f014c5a23374f55c916a6cbca8d611baace8a',NULL,'blake3:939a521519b19dd9b6da78e706a1a5598483a8e19167420eabefc60ea6cd04b0','2026-11-21 14:57:20.395454',NULL);
INSERT INTO "bases" VALUES(2,'blake3:3f796163ebf94718de1cd7582655c012f995c06f1e6970ea2bdc15bcd88a324a','it''s a "bäse" ☃; --','llama',2,4,2,16,64,'blake3:b90ddb3d1cd26e387ed70567e561da38ab0a68c8f8b1fbaec4f09a6ba2a67a11','blake3:90de8a51eb9a4b38741c8da5326a96679bd1d9be028bff7beb85a34f6f011037',NULL,'blake3:a52a87522dd111430ba758d16f1a08a9b225f5ebe9a2e5c659fc1437c0a8d311','2026-11-21 14:57:20.478401',X'049A5EBED280C63F2A3B51BF874B7EBF888330BF09BCB9BEEEEAE1BE6E69533F3F9C13BF3D99963E34107FBCE182E0BEFF16423FEBB9FB3E776D85BE21EF03BF74B8FDBE1955A03FEB35C8BEC660D03EED12CE3FE8A62A3F4A5C38BE385C18406F930C3F335A8D3F804E433F5AE7D83E30A7503D6CD82E3FE596BA3ED715C63FA727093EF109EEBBAC54474040100A3E6EF5593F4ED4AD3FD4EBC4BE59A4FE3DEFC7143FB62A7CBEACF28CBE8DB59A3FE99CA43FD1756ABF6BB0E83DA72C583FD1D16FBF6DED133EF3CE543F3E131A3FE145223FE77ACE3EC64D2C3F220A903FCE3A3B3F0C4BC03D1D898E3F19C239BE1E42943DAD6AA53FA0B7813EB654593E5677B4BEF100553F13E629BF9FA3ECBE536214BD21B581BEF0E3BB3F8F2359BF7606E9BEA9586A3F9E1BDDBEBD31BC3E16749A3F3282E63E364E0ABF9CCD99BDB94D94BFA9C4673D4A1CC93E0CD885BF95A4573F9A716B3FDF3C52BFCA483ABC7983B73F369406BE3CBB3B3FE821C53E40A95EBF5CB74D3D9A24DF3F225CB73EF267333F8120C53E7A8E0ABE18E5EE3F2B3564BF9D7002C00ADAADBEBAC3E2BFEC1944BF1177323FC892583F8E0D813FE2F897BF89596EBFAE86FEBE370E70BE08BEA83FF40A013E251CA3BE95BE8EBE030B95BF017F12BF4C7CC43F901A203F2B40C1BF818897BF6F17153F1259C73DDB7CBA3F5013293F3045D53EEA84293D81A404BF2B1597BED414FC3F78EA4F3F741F493F090FF83F0744313F6386BE3FCD819F3F95BC823FA9338DBDB034E53F4C05F03E3CA972BF7FE1C23F946E263E456D953F00F172BFAA032D3F13E2C53FC3899C3F9FEBC93EB3D71EBFDA01AE3E4E1DD23E158ADBBF95D2743F5C1B4CBE29EB3ABFD1DA30BE6EB3BB3ED3D36CBFC75849BDD294193FFE08DD3B853C23BF41F0973E1254D53F25DB643E662FCEBF866457BFB23039BFEF2B1CBFF13CD73E21DA02BFBAA411BFC64413BEDCCA283F41D5C9BEC78AD6BE39A2B43F845A9FBF9FB64D3F254E953FAA2EA33FB1B8A13E6EFA5DBF933A44BEC463573F5A3F62BEE059C63EE9E05D3F817B4FBF2ABC54BDAA2FB03ED3950F3F02F19F3E455B0ABF0088143EBB95B33FB2E8E43F34CC24BF251D0B40D0C95BBEAB74CCBEF8F2014061538A3FBFA4D3BED3A6C13EACB3BA3E92B19DBFE237863F90186DBF5978533F4E754CBEC657CFBF393F863E39B69CBF8A48FD3FF01C48BFE8C3A0BF7013A73FAFD5023E2F73143F876AA2BDCAC199BE85CFBFBE073120BEAD24B53F47C68C3E71A7253F41379DBF85BDB93FD5927C3F5275DEBE81453A3FE20726BF532C9B3FFB4873BF2B369DBF92E2193F6A0AD6BDA75797BF809D1ABF6DA4F7BC3CA4543F1FA9BE3F7B607D3D90D0C63E40D191BF894BE2BE33338FBF36E3153EED7EA1BFEC81D8BEC3899C3F82F6C1BFDBF3CF3F');
CREATE TABLE blobs (
	digest VARCHAR(71) NOT NULL, 
	size BIGINT NOT NULL, 
	created_at DATETIME NOT NULL, 
	CONSTRAINT pk_blobs PRIMARY KEY (digest), 
	CONSTRAINT ck_blobs_digest_digest CHECK (length(digest) = 71 AND substr(digest, 1, 7) = 'blake3:' AND ltrim(substr(digest, 8), '0123456789abcdef') = ''), 
	CONSTRAINT ck_blobs_size_natural CHECK (size >= 0)
);
INSERT INTO "blobs" VALUES('blake3:939a521519b19dd9b6da78e706a1a5598483a8e19167420eabefc60ea6cd04b0',14,'2026-11-21 14:57:20.383911');
INSERT INTO "blobs" VALUES('blake3:a52a87522dd111430ba758d16f1a08a9b225f5ebe9a2e5c659fc1437c0a8d311',15,'2026-11-21 14:57:20.475001');
INSERT INTO "blobs" VALUES('blake3:ae91ab22b12ebacfb4c41bc9e8559003bb34ed5c25c1c690af62202a7c4785c9',875,'2026-11-21 14:57:20.532690');
INSERT INTO "blobs" VALUES('blake3:7798139bc16820ae05b9dcd9fab2088ca1d08dc8e044278597f8323df7af3940',7,'2026-11-21 14:57:20.533162');
INSERT INTO "blobs" VALUES('blake3:0bc52c81c2926a51fae62c3baf26711b345d27f328ccb5e1708a46a3fda041b6',840,'2026-11-21 14:57:20.571136');
INSERT INTO "blobs" VALUES('blake3:cd85637651ec7a557bddd61c5ddd1df21ad8bbbaf6c3c098482b3ed1c1014964',6,'2026-11-21 14:57:20.573887');
INSERT INTO "blobs" VALUES('blake3:bff3a65c6e1d520c1de5ae6b88d93bc701e5866e21d72506fb02d9113bc1cb97',838,'2026-11-21 14:57:20.615750');
INSERT INTO "blobs" VALUES('blake3:42f1d0a285aebbec81c29b9e334aaa322f6f24ac7d5f14c3b89aa50a9bc7b2d1',5,'2026-11-21 14:57:20.616016');
INSERT INTO "blobs" VALUES('blake3:88e1d1a733fff403c06a8fc8b168c936925027c60245dfae79c19e31c33cb224',844,'2026-11-21 14:57:20.647768');
CREATE TABLE checkpoints (
	id INTEGER NOT NULL, 
	weights VARCHAR(71) NOT NULL, 
	base_id INTEGER, 
	relation TEXT NOT NULL, 
	evidence_level INTEGER NOT NULL, 
	distance DOUBLE, 
	config_digest VARCHAR(71), 
	locator TEXT, 
	first_seen DATETIME NOT NULL, 
	last_seen DATETIME NOT NULL, 
	CONSTRAINT pk_checkpoints PRIMARY KEY (id), 
	CONSTRAINT uq_checkpoints_weights UNIQUE (weights), 
	CONSTRAINT fk_checkpoints_base_id_bases FOREIGN KEY(base_id) REFERENCES bases (id), 
	CONSTRAINT ck_checkpoints_weights_digest CHECK (length(weights) = 71 AND substr(weights, 1, 7) = 'blake3:' AND ltrim(substr(weights, 8), '0123456789abcdef') = ''), 
	CONSTRAINT ck_checkpoints_config_digest_digest CHECK (length(config_digest) = 71 AND substr(config_digest, 1, 7) = 'blake3:' AND ltrim(substr(config_digest, 8), '0123456789abcdef') = ''), 
	CONSTRAINT ck_checkpoints_evidence_level_known CHECK (evidence_level BETWEEN 0 AND 4), 
	CONSTRAINT ck_checkpoints_distance_natural CHECK (distance >= 0)
);
INSERT INTO "checkpoints" VALUES(1,'blake3:a4e45ea759464968be0d1e4c16b390c6e97affec3acb5b4cd4588154dfaa0c44',1,'derived',3,0.00125,'blake3:b756e64ea90c4036e88f3f07ff9a708666dc0527bf14a015249e84ff6daabaa7','/models/tune \x00','2026-11-21 14:57:20.657542','2026-11-21 14:57:20.657542');
INSERT INTO "checkpoints" VALUES(2,'blake3:a3c6fd0425f2fddd5f228bc4fde34524b16289a811133731b03b267f3d0f5b0e',NULL,'unrelated',2,1.4,'blake3:b756e64ea90c4036e88f3f07ff9a708666dc0527bf14a015249e84ff6daabaa7','/models/stranger \x00','2026-11-21 14:57:20.716832','2026-11-21 14:57:20.716832');
CREATE TABLE events (
	sequence INTEGER NOT NULL, 
	at VARCHAR(27) NOT NULL, 
	actor TEXT NOT NULL, 
	action VARCHAR(64) NOT NULL, 
	subject TEXT NOT NULL, 
	detail TEXT NOT NULL, 
	previous_digest VARCHAR(71) NOT NULL, 
	digest VARCHAR(71) NOT NULL, 
	CONSTRAINT pk_events PRIMARY KEY (sequence), 
	CONSTRAINT uq_events_digest UNIQUE (digest), 
	CONSTRAINT ck_events_previous_digest_digest CHECK (length(previous_digest) = 71 AND substr(previous_digest, 1, 7) = 'blake3:' AND ltrim(substr(previous_digest, 8), '0123456789abcdef') = ''), 
	CONSTRAINT ck_events_digest_digest CHECK (length(digest) = 71 AND substr(digest, 1, 7) = 'blake3:' AND ltrim(substr(digest, 8), '0123456789abcdef') = ''), 
	CONSTRAINT ck_events_sequence_positive CHECK (sequence > 0)
);
INSERT INTO "events" VALUES(1,'2026-11-21T14:57:20.398449Z','publisher','base.register','base','{"record":"blake3:939a521519b19dd9b6da78e706a1a5598483a8e19167420eabefc60ea6cd04b0","weights":"blake3:de8f3fcf327eb911b2c368e011e0ffdee22fed456b4f4508337018ba46a0639d"}','blake3:0000000000000000000000000000000000000000000000000000000000000000','blake3:b44b7b458a0bbeee65991a9efc9850da80fe1f0270798b8fd4a680597e61e225');
INSERT INTO "events" VALUES(2,'2026-11-21T14:57:20.420018Z','publisher','base.alias','base','{"aliases":["path:/models/base","hub:org/base@0000000000000000000000000000000000000000","sha256-set:ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff"]}','blake3:b44b7b458a0bbeee65991a9efc9850da80fe1f0270798b8fd4a680597e61e225','blake3:d760546fbacf20e55784683740470ba1c37283005a33b0f45da98749b82e7dbc');
INSERT INTO "events" VALUES(3,'2026-11-21T14:57:20.479655Z','publisher','base.register','it''s a "bäse" ☃; --','{"record":"blake3:a52a87522dd111430ba758d16f1a08a9b225f5ebe9a2e5c659fc1437c0a8d311","weights":"blake3:3f796163ebf94718de1cd7582655c012f995c06f1e6970ea2bdc15bcd88a324a"}','blake3:d760546fbacf20e55784683740470ba1c37283005a33b0f45da98749b82e7dbc','blake3:5812b0d81ec74323f234acb4b2df992f02e3aac7b651e8b1dd781641a0e82e16');
INSERT INTO "events" VALUES(4,'2026-11-21T14:57:20.543146Z','publisher','version.publish','lock@1.0.0','{"base":"blake3:de8f3fcf327eb911b2c368e011e0ffdee22fed456b4f4508337018ba46a0639d","digest":"blake3:ae91ab22b12ebacfb4c41bc9e8559003bb34ed5c25c1c690af62202a7c4785c9","kind":"safety_lock"}','blake3:5812b0d81ec74323f234acb4b2df992f02e3aac7b651e8b1dd781641a0e82e16','blake3:0b0f8d8b3cff1a187b1a047c6c4a89a12e2ca9536666ca3204a8dcf3c8cfb0ea');
INSERT INTO "events" VALUES(5,'2026-11-21T14:57:20.551188Z','publisher','version.revoke','lock@1.0.0','{"digest":"blake3:ae91ab22b12ebacfb4c41bc9e8559003bb34ed5c25c1c690af62202a7c4785c9","reason":"negated ''directions''\n"}','blake3:0b0f8d8b3cff1a187b1a047c6c4a89a12e2ca9536666ca3204a8dcf3c8cfb0ea','blake3:a10aad977ebe5e71cd1be72202f85e012ef25aec6abe57ef96b2efc92cf8c297');
INSERT INTO "events" VALUES(6,'2026-11-21T14:57:20.574941Z','publisher','version.publish','lock@1.1rc1','{"base":"blake3:de8f3fcf327eb911b2c368e011e0ffdee22fed456b4f4508337018ba46a0639d","digest":"blake3:0bc52c81c2926a51fae62c3baf26711b345d27f328ccb5e1708a46a3fda041b6","kind":"safety_lock"}','blake3:a10aad977ebe5e71cd1be72202f85e012ef25aec6abe57ef96b2efc92cf8c297','blake3:a842c5cbfa6d8e9c0a67f9d773caf1428006cbdb434737660e26a8d225cfec61');
INSERT INTO "events" VALUES(7,'2026-11-21T14:57:20.583531Z','publisher','version.yank','lock@1.1rc1','{"digest":"blake3:0bc52c81c2926a51fae62c3baf26711b345d27f328ccb5e1708a46a3fda041b6","reason":"too weak"}','blake3:a842c5cbfa6d8e9c0a67f9d773caf1428006cbdb434737660e26a8d225cfec61','blake3:45884fb5fd632cf503e8eb164e7269a8da211b59d5680790ae3b6f5c8a9a03a3');
INSERT INTO "events" VALUES(8,'2026-11-21T14:57:20.616967Z','publisher','version.publish','lock@1.10','{"base":"blake3:de8f3fcf327eb911b2c368e011e0ffdee22fed456b4f4508337018ba46a0639d","digest":"blake3:bff3a65c6e1d520c1de5ae6b88d93bc701e5866e21d72506fb02d9113bc1cb97","kind":"safety_lock"}','blake3:45884fb5fd632cf503e8eb164e7269a8da211b59d5680790ae3b6f5c8a9a03a3','blake3:c9547c670d3c1072e2e17e1af31baa338928153620d2dd953b838542cc0d5e12');
INSERT INTO "events" VALUES(9,'2026-11-21T14:57:20.654062Z','publisher','version.publish','mask@2!1.0+local.1','{"base":"blake3:de8f3fcf327eb911b2c368e011e0ffdee22fed456b4f4508337018ba46a0639d","digest":"blake3:88e1d1a733fff403c06a8fc8b168c936925027c60245dfae79c19e31c33cb224","kind":"esi_mask"}','blake3:c9547c670d3c1072e2e17e1af31baa338928153620d2dd953b838542cc0d5e12','blake3:cdd9fbc8b247e955060ac11c4bae7841db7c2a9af82920b8fab8d2a78220d315');
INSERT INTO "events" VALUES(10,'2026-11-21T14:57:20.659492Z','publisher','checkpoint.record','blake3:a4e45ea759464968be0d1e4c16b390c6e97affec3acb5b4cd4588154dfaa0c44','{"base":"blake3:de8f3fcf327eb911b2c368e011e0ffdee22fed456b4f4508337018ba46a0639d","config_digest":"blake3:b756e64ea90c4036e88f3f07ff9a708666dc0527bf14a015249e84ff6daabaa7","distance":0.00125,"evidence_level":3,"locator":"/models/tune \\x00","relation":"derived"}','blake3:cdd9fbc8b247e955060ac11c4bae7841db7c2a9af82920b8fab8d2a78220d315','blake3:2f7e6a252304a71f533f777b7b695d48cc5b2555fed2f0d9ee059a93e891f524');
INSERT INTO "events" VALUES(11,'2026-11-21T14:57:20.667643Z','publisher','report.record','blake3:a4e45ea759464968be0d1e4c16b390c6e97affec3acb5b4cd4588154dfaa0c44','{"artifact":"blake3:bff3a65c6e1d520c1de5ae6b88d93bc701e5866e21d72506fb02d9113bc1cb97","body":"blake3:736dc034038fe44737c11662f550bdf211e07254e618264929d77b4334b9288e","kind":"lineage","verdict":"derived"}','blake3:2f7e6a252304a71f533f777b7b695d48cc5b2555fed2f0d9ee059a93e891f524','blake3:7be26140cf0de191b8a99d079297cc53fb0d0f77fcc50749cef91c5cba877c45');
INSERT INTO "events" VALUES(12,'2026-11-21T14:57:20.675846Z','publisher','report.record','blake3:a4e45ea759464968be0d1e4c16b390c6e97affec3acb5b4cd4588154dfaa0c44','{"artifact":"blake3:bff3a65c6e1d520c1de5ae6b88d93bc701e5866e21d72506fb02d9113bc1cb97","body":"blake3:736dc034038fe44737c11662f550bdf211e07254e618264929d77b4334b9288e","kind":"check","verdict":"derived"}','blake3:7be26140cf0de191b8a99d079297cc53fb0d0f77fcc50749cef91c5cba877c45','blake3:f44f6387021a3664d81bd76b6f8bf7b331689db9b9554ad48eb3e31a7d0fa455');
INSERT INTO "events" VALUES(13,'2026-11-21T14:57:20.686046Z','publisher','report.record','blake3:a4e45ea759464968be0d1e4c16b390c6e97affec3acb5b4cd4588154dfaa0c44','{"artifact":"blake3:bff3a65c6e1d520c1de5ae6b88d93bc701e5866e21d72506fb02d9113bc1cb97","body":"blake3:736dc034038fe44737c11662f550bdf211e07254e618264929d77b4334b9288e","kind":"inspect","verdict":"derived"}','blake3:f44f6387021a3664d81bd76b6f8bf7b331689db9b9554ad48eb3e31a7d0fa455','blake3:5784c22890e7ba019cb72406595e8c4d976f096fc674d479f38e5d8e87f2fd8d');
INSERT INTO "events" VALUES(14,'2026-11-21T14:57:20.695490Z','publisher','report.record','blake3:a4e45ea759464968be0d1e4c16b390c6e97affec3acb5b4cd4588154dfaa0c44','{"artifact":"blake3:bff3a65c6e1d520c1de5ae6b88d93bc701e5866e21d72506fb02d9113bc1cb97","body":"blake3:736dc034038fe44737c11662f550bdf211e07254e618264929d77b4334b9288e","kind":"audit","verdict":"derived"}','blake3:5784c22890e7ba019cb72406595e8c4d976f096fc674d479f38e5d8e87f2fd8d','blake3:ee0809d14a301758a99d72d85d62f27a237a7a853069e0a5d18a6e4051395a04');
INSERT INTO "events" VALUES(15,'2026-11-21T14:57:20.703607Z','publisher','application.record','blake3:a4e45ea759464968be0d1e4c16b390c6e97affec3acb5b4cd4588154dfaa0c44','{"alpha":2.5,"applied_at":"2030-01-01T12:00:00+00:00","device":"cuda:0","evidence":"blake3:26bd63e00aa7b0b46616c0621655c3bc44aadc8f3f4be3523339bfa4d37f178e","kind":"safety_lock","manifest_digest":"blake3:bff3a65c6e1d520c1de5ae6b88d93bc701e5866e21d72506fb02d9113bc1cb97","policy":"enforce","verified_at":"2030-01-01T12:00:01+00:00"}','blake3:ee0809d14a301758a99d72d85d62f27a237a7a853069e0a5d18a6e4051395a04','blake3:83d4ac6970cb761d8f5e0746e5ed6132bd7bfe5e9533615a2612bc1627cf02a2');
INSERT INTO "events" VALUES(16,'2026-11-21T14:57:20.708866Z','publisher','application.record','blake3:a4e45ea759464968be0d1e4c16b390c6e97affec3acb5b4cd4588154dfaa0c44','{"alpha":null,"applied_at":"2030-01-01T12:00:00+00:00","device":"cpu","evidence":"blake3:6e46dd10defc9b56c29a6ec56b508c21f54c08192194e4df25bf36f0c9c3c279","kind":"safety_lock","manifest_digest":"blake3:76ea1cfe2346880aa77a3909ef798014533fa81db07a990ab98f2fba83f47a8f","policy":"warn","verified_at":null}','blake3:83d4ac6970cb761d8f5e0746e5ed6132bd7bfe5e9533615a2612bc1627cf02a2','blake3:2947e1ce2c5bf0c4310271bc07642d7a37f4cddb731ab6e7eec678057bc5f01b');
INSERT INTO "events" VALUES(17,'2026-11-21T14:57:20.718384Z','publisher','checkpoint.record','blake3:a3c6fd0425f2fddd5f228bc4fde34524b16289a811133731b03b267f3d0f5b0e','{"base":null,"config_digest":"blake3:b756e64ea90c4036e88f3f07ff9a708666dc0527bf14a015249e84ff6daabaa7","distance":1.4,"evidence_level":2,"locator":"/models/stranger \\x00","relation":"unrelated"}','blake3:2947e1ce2c5bf0c4310271bc07642d7a37f4cddb731ab6e7eec678057bc5f01b','blake3:b7dfb34f6d9da188350a290d045b77e8a0006600f64bfdabf54a5ddfc086630f');
INSERT INTO "events" VALUES(18,'2026-11-21T14:57:20.728738Z','publisher','report.record','blake3:a3c6fd0425f2fddd5f228bc4fde34524b16289a811133731b03b267f3d0f5b0e','{"artifact":"blake3:bff3a65c6e1d520c1de5ae6b88d93bc701e5866e21d72506fb02d9113bc1cb97","body":"blake3:736dc034038fe44737c11662f550bdf211e07254e618264929d77b4334b9288e","kind":"lineage","verdict":"unrelated"}','blake3:b7dfb34f6d9da188350a290d045b77e8a0006600f64bfdabf54a5ddfc086630f','blake3:b69e1a767d8d1816fb1e48cabb08d488510d6f4685c2576a3128b8e9513f00f0');
INSERT INTO "events" VALUES(19,'2026-11-21T14:57:20.741061Z','publisher','report.record','blake3:a3c6fd0425f2fddd5f228bc4fde34524b16289a811133731b03b267f3d0f5b0e','{"artifact":"blake3:bff3a65c6e1d520c1de5ae6b88d93bc701e5866e21d72506fb02d9113bc1cb97","body":"blake3:736dc034038fe44737c11662f550bdf211e07254e618264929d77b4334b9288e","kind":"check","verdict":"unrelated"}','blake3:b69e1a767d8d1816fb1e48cabb08d488510d6f4685c2576a3128b8e9513f00f0','blake3:a3ba838d48ca3b6140fe2567a9dd64d4a3c110c0e8815e792b12656ad80871f6');
INSERT INTO "events" VALUES(20,'2026-11-21T14:57:20.752571Z','publisher','report.record','blake3:a3c6fd0425f2fddd5f228bc4fde34524b16289a811133731b03b267f3d0f5b0e','{"artifact":"blake3:bff3a65c6e1d520c1de5ae6b88d93bc701e5866e21d72506fb02d9113bc1cb97","body":"blake3:736dc034038fe44737c11662f550bdf211e07254e618264929d77b4334b9288e","kind":"inspect","verdict":"unrelated"}','blake3:a3ba838d48ca3b6140fe2567a9dd64d4a3c110c0e8815e792b12656ad80871f6','blake3:dbbef07db1e35d05df2b3d35e680d72d9115fda763054cc9f7005e3e813033f9');
INSERT INTO "events" VALUES(21,'2026-11-21T14:57:20.762940Z','publisher','report.record','blake3:a3c6fd0425f2fddd5f228bc4fde34524b16289a811133731b03b267f3d0f5b0e','{"artifact":"blake3:bff3a65c6e1d520c1de5ae6b88d93bc701e5866e21d72506fb02d9113bc1cb97","body":"blake3:736dc034038fe44737c11662f550bdf211e07254e618264929d77b4334b9288e","kind":"audit","verdict":"unrelated"}','blake3:dbbef07db1e35d05df2b3d35e680d72d9115fda763054cc9f7005e3e813033f9','blake3:26cfeb025a6a299205bae2fe9e8f083d274b346d86e07694767db5c1bde2a640');
INSERT INTO "events" VALUES(22,'2026-11-21T14:57:20.775575Z','publisher','application.record','blake3:a3c6fd0425f2fddd5f228bc4fde34524b16289a811133731b03b267f3d0f5b0e','{"alpha":2.5,"applied_at":"2030-01-01T12:00:00+00:00","device":"cuda:0","evidence":"blake3:26bd63e00aa7b0b46616c0621655c3bc44aadc8f3f4be3523339bfa4d37f178e","kind":"safety_lock","manifest_digest":"blake3:bff3a65c6e1d520c1de5ae6b88d93bc701e5866e21d72506fb02d9113bc1cb97","policy":"enforce","verified_at":"2030-01-01T12:00:01+00:00"}','blake3:26cfeb025a6a299205bae2fe9e8f083d274b346d86e07694767db5c1bde2a640','blake3:461cab3b76cf0308d42e4fddc6d96f432d3ae5c7d85941f0f855cac677648ca3');
INSERT INTO "events" VALUES(23,'2026-11-21T14:57:20.788148Z','publisher','application.record','blake3:a3c6fd0425f2fddd5f228bc4fde34524b16289a811133731b03b267f3d0f5b0e','{"alpha":null,"applied_at":"2030-01-01T12:00:00+00:00","device":"cpu","evidence":"blake3:6e46dd10defc9b56c29a6ec56b508c21f54c08192194e4df25bf36f0c9c3c279","kind":"safety_lock","manifest_digest":"blake3:76ea1cfe2346880aa77a3909ef798014533fa81db07a990ab98f2fba83f47a8f","policy":"warn","verified_at":null}','blake3:461cab3b76cf0308d42e4fddc6d96f432d3ae5c7d85941f0f855cac677648ca3','blake3:e5aa03e4962d3cda8a98e8cc0b8aea7917cd934872f4fc84021b8e6bfa8cd919');
INSERT INTO "events" VALUES(24,'2026-11-21T14:57:20.794398Z','publisher','load.unprotected','blake3:a4e45ea759464968be0d1e4c16b390c6e97affec3acb5b4cd4588154dfaa0c44','{"reason":"a test"}','blake3:e5aa03e4962d3cda8a98e8cc0b8aea7917cd934872f4fc84021b8e6bfa8cd919','blake3:0376b0f9194457ec169b40cf15c1a233c77c442e80509eb56dfd78cca0921343');
CREATE TABLE registry (
	one INTEGER NOT NULL, 
	id VARCHAR(32) NOT NULL, 
	CONSTRAINT pk_registry PRIMARY KEY (one), 
	CONSTRAINT ck_registry_one_row CHECK (one = 1), 
	CONSTRAINT ck_registry_id_hex CHECK (length(id) = 32 AND ltrim(id, '0123456789abcdef') = '')
);
INSERT INTO "registry" VALUES(1,'3ca478f83a3c5b550c0fb51b22da5c14');
CREATE TABLE reports (
	id INTEGER NOT NULL, 
	checkpoint_id INTEGER NOT NULL, 
	version_id INTEGER, 
	kind VARCHAR(16) NOT NULL, 
	verdict TEXT NOT NULL, 
	body TEXT NOT NULL, 
	tool_version VARCHAR(64) NOT NULL, 
	created_at DATETIME NOT NULL, 
	CONSTRAINT pk_reports PRIMARY KEY (id), 
	CONSTRAINT fk_reports_checkpoint_id_checkpoints FOREIGN KEY(checkpoint_id) REFERENCES checkpoints (id), 
	CONSTRAINT fk_reports_version_id_versions FOREIGN KEY(version_id) REFERENCES versions (id), 
	CONSTRAINT ck_reports_kind_known CHECK (kind IN ('lineage', 'check', 'inspect', 'audit'))
);
INSERT INTO "reports" VALUES(1,1,3,'lineage','derived','{"findings":[{"text":"a ''quote'' and ☃"}],"none":null,"ratio":0.1}','0.1.0','2026-11-21 14:57:20.666759');
INSERT INTO "reports" VALUES(2,1,3,'check','derived','{"findings":[{"text":"a ''quote'' and ☃"}],"none":null,"ratio":0.1}','0.1.0','2026-11-21 14:57:20.675108');
INSERT INTO "reports" VALUES(3,1,3,'inspect','derived','{"findings":[{"text":"a ''quote'' and ☃"}],"none":null,"ratio":0.1}','0.1.0','2026-11-21 14:57:20.685306');
INSERT INTO "reports" VALUES(4,1,3,'audit','derived','{"findings":[{"text":"a ''quote'' and ☃"}],"none":null,"ratio":0.1}','0.1.0','2026-11-21 14:57:20.694765');
INSERT INTO "reports" VALUES(5,2,3,'lineage','unrelated','{"findings":[{"text":"a ''quote'' and ☃"}],"none":null,"ratio":0.1}','0.1.0','2026-11-21 14:57:20.728048');
INSERT INTO "reports" VALUES(6,2,3,'check','unrelated','{"findings":[{"text":"a ''quote'' and ☃"}],"none":null,"ratio":0.1}','0.1.0','2026-11-21 14:57:20.740340');
INSERT INTO "reports" VALUES(7,2,3,'inspect','unrelated','{"findings":[{"text":"a ''quote'' and ☃"}],"none":null,"ratio":0.1}','0.1.0','2026-11-21 14:57:20.751807');
INSERT INTO "reports" VALUES(8,2,3,'audit','unrelated','{"findings":[{"text":"a ''quote'' and ☃"}],"none":null,"ratio":0.1}','0.1.0','2026-11-21 14:57:20.762200');
CREATE TABLE version_files (
	version_id INTEGER NOT NULL, 
	path VARCHAR(128) NOT NULL, 
	blob VARCHAR(71) NOT NULL, 
	CONSTRAINT pk_version_files PRIMARY KEY (version_id, path), 
	CONSTRAINT fk_version_files_version_id_versions FOREIGN KEY(version_id) REFERENCES versions (id), 
	CONSTRAINT fk_version_files_blob_blobs FOREIGN KEY(blob) REFERENCES blobs (digest)
);
INSERT INTO "version_files" VALUES(1,'base.safetensors','blake3:939a521519b19dd9b6da78e706a1a5598483a8e19167420eabefc60ea6cd04b0');
INSERT INTO "version_files" VALUES(1,'manifest.json','blake3:ae91ab22b12ebacfb4c41bc9e8559003bb34ed5c25c1c690af62202a7c4785c9');
INSERT INTO "version_files" VALUES(1,'tensors.safetensors','blake3:7798139bc16820ae05b9dcd9fab2088ca1d08dc8e044278597f8323df7af3940');
INSERT INTO "version_files" VALUES(2,'base.safetensors','blake3:939a521519b19dd9b6da78e706a1a5598483a8e19167420eabefc60ea6cd04b0');
INSERT INTO "version_files" VALUES(2,'manifest.json','blake3:0bc52c81c2926a51fae62c3baf26711b345d27f328ccb5e1708a46a3fda041b6');
INSERT INTO "version_files" VALUES(2,'tensors.safetensors','blake3:cd85637651ec7a557bddd61c5ddd1df21ad8bbbaf6c3c098482b3ed1c1014964');
INSERT INTO "version_files" VALUES(3,'base.safetensors','blake3:939a521519b19dd9b6da78e706a1a5598483a8e19167420eabefc60ea6cd04b0');
INSERT INTO "version_files" VALUES(3,'manifest.json','blake3:bff3a65c6e1d520c1de5ae6b88d93bc701e5866e21d72506fb02d9113bc1cb97');
INSERT INTO "version_files" VALUES(3,'tensors.safetensors','blake3:42f1d0a285aebbec81c29b9e334aaa322f6f24ac7d5f14c3b89aa50a9bc7b2d1');
INSERT INTO "version_files" VALUES(4,'base.safetensors','blake3:939a521519b19dd9b6da78e706a1a5598483a8e19167420eabefc60ea6cd04b0');
INSERT INTO "version_files" VALUES(4,'manifest.json','blake3:88e1d1a733fff403c06a8fc8b168c936925027c60245dfae79c19e31c33cb224');
INSERT INTO "version_files" VALUES(4,'tensors.safetensors','blake3:7798139bc16820ae05b9dcd9fab2088ca1d08dc8e044278597f8323df7af3940');
CREATE TABLE versions (
	id INTEGER NOT NULL, 
	artifact_id INTEGER NOT NULL, 
	version VARCHAR(64) NOT NULL, 
	version_order VARCHAR(512) NOT NULL, 
	manifest_digest VARCHAR(71) NOT NULL, 
	state VARCHAR(16) DEFAULT 'active' NOT NULL, 
	state_reason TEXT, 
	signature_blob VARCHAR(71), 
	key_id VARCHAR(128), 
	not_before DATETIME, 
	expires_at DATETIME, 
	published_at DATETIME NOT NULL, 
	CONSTRAINT pk_versions PRIMARY KEY (id), 
	CONSTRAINT uq_versions_manifest_digest UNIQUE (manifest_digest), 
	CONSTRAINT uq_versions_artifact_id_version UNIQUE (artifact_id, version), 
	CONSTRAINT uq_versions_artifact_id_version_order UNIQUE (artifact_id, version_order), 
	CONSTRAINT fk_versions_artifact_id_artifacts FOREIGN KEY(artifact_id) REFERENCES artifacts (id), 
	CONSTRAINT fk_versions_signature_blob_blobs FOREIGN KEY(signature_blob) REFERENCES blobs (digest), 
	CONSTRAINT ck_versions_manifest_digest_digest CHECK (length(manifest_digest) = 71 AND substr(manifest_digest, 1, 7) = 'blake3:' AND ltrim(substr(manifest_digest, 8), '0123456789abcdef') = ''), 
	CONSTRAINT ck_versions_state_known CHECK (state IN ('active', 'yanked', 'revoked'))
);
INSERT INTO "versions" VALUES(1,1,'1.0.0','010101102010','blake3:ae91ab22b12ebacfb4c41bc9e8559003bb34ed5c25c1c690af62202a7c4785c9','revoked','negated ''directions''
',NULL,NULL,'2030-01-01 00:00:00.000000','2031-01-01 00:00:00.000000','2026-11-21 14:57:20.529752');
INSERT INTO "versions" VALUES(2,1,'1.1rc1','0101011101101r011010','blake3:0bc52c81c2926a51fae62c3baf26711b345d27f328ccb5e1708a46a3fda041b6','yanked','too weak',NULL,NULL,NULL,NULL,'2026-11-21 14:57:20.569965');
INSERT INTO "versions" VALUES(3,1,'1.10','01010111021002010','blake3:bff3a65c6e1d520c1de5ae6b88d93bc701e5866e21d72506fb02d9113bc1cb97','active',NULL,NULL,NULL,NULL,NULL,'2026-11-21 14:57:20.614727');
INSERT INTO "versions" VALUES(4,2,'2!1.0+local.1','0121011020111local.20110','blake3:88e1d1a733fff403c06a8fc8b168c936925027c60245dfae79c19e31c33cb224','active',NULL,NULL,NULL,NULL,NULL,'2026-11-21 14:57:20.646723');
CREATE INDEX ix_aliases_base_id ON aliases (base_id);
CREATE INDEX ix_aliases_value ON aliases (value);
CREATE INDEX ix_artifacts_base_id ON artifacts (base_id);
CREATE INDEX ix_version_files_blob ON version_files (blob);
CREATE INDEX ix_checkpoints_base_id ON checkpoints (base_id);
CREATE INDEX ix_reports_checkpoint_id_kind ON reports (checkpoint_id, kind);
CREATE INDEX ix_reports_version_id ON reports (version_id);
CREATE INDEX ix_applications_checkpoint_id ON applications (checkpoint_id);
CREATE INDEX ix_applications_version_id ON applications (version_id);
CREATE INDEX ix_applications_manifest_digest ON applications (manifest_digest);
CREATE TRIGGER events_refuse_update BEFORE UPDATE ON events BEGIN SELECT RAISE(ABORT, 'events are only appended: none is changed or removed'); END;
CREATE TRIGGER events_refuse_delete BEFORE DELETE ON events BEGIN SELECT RAISE(ABORT, 'events are only appended: none is changed or removed'); END;
CREATE INDEX ix_bases_geometry ON bases (family, layers, heads, kv_heads, head_dim, hidden_size);
COMMIT;
